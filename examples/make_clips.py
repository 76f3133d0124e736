"""Make the bundled speech clips with the free synthesiser eSpeak NG (Debian: apt install espeak-ng).

Run as ``python examples/make_clips.py``; writes ``examples/clips/*.flac``, mono, 22.05 kHz.
The sentences are ours, and what eSpeak NG speaks is not covered by its licence.
"""

import io
import subprocess
from pathlib import Path

import soundfile

CLIPS = {
    "en_calm": ("en-gb", 40, 150, "The kettle is on, and there is no hurry at all."),
    "en_excited": ("en-gb", 85, 230, "Look, look! The train is already here!"),
    "de_calm": ("de", 45, 150, "Heute Abend gehen wir langsam am Fluss entlang."),
    "fr_excited": ("fr-fr", 80, 220, "Vite, la neige tombe enfin sur le jardin!"),
    "es_calm": ("es", 40, 150, "Mañana leeremos el libro en la cocina."),
}
"""Name: voice, pitch (0 to 99), speed (words per minute), sentence."""


def speak(voice: str, pitch: int, words_per_minute: int, text: str) -> bytes:
    """The WAV that eSpeak NG makes of ``text``."""
    options = ["-v", voice, "-p", str(pitch), "-s", str(words_per_minute), "--stdout"]
    return subprocess.run(["espeak-ng", *options, text], check=True, capture_output=True).stdout


def main() -> None:
    folder = Path(__file__).parent / "clips"
    folder.mkdir(exist_ok=True)
    for name, clip in CLIPS.items():
        samples, sample_rate_hz = soundfile.read(io.BytesIO(speak(*clip)), dtype="int16")
        soundfile.write(folder / f"{name}.flac", samples, sample_rate_hz)
        print(f"{name}: {len(samples) / sample_rate_hz:.2f} s")


if __name__ == "__main__":
    main()
