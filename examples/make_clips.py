"""Make the bundled speech clips with the free synthesiser eSpeak NG (Debian: apt install espeak-ng).

Run as ``python examples/make_clips.py``; writes ``examples/clips/*.flac``, mono, 22.05 kHz, and
``examples/emotions/*.ogg``, Opus, mono, 16 kHz. The sentences are ours, and what eSpeak NG speaks is not
covered by its licence.
"""

import io
import subprocess
from pathlib import Path
from typing import Any

import soundfile
import soxr

FOLDER = Path(__file__).parent

CLIPS = {
    "en_calm": ("en-gb", 40, 150, "The kettle is on, and there is no hurry at all."),
    "en_excited": ("en-gb", 85, 230, "Look, look! The train is already here!"),
    "de_calm": ("de", 45, 150, "Heute Abend gehen wir langsam am Fluss entlang."),
    "fr_excited": ("fr-fr", 80, 220, "Vite, la neige tombe enfin sur le jardin!"),
    "es_calm": ("es", 40, 150, "Mañana leeremos el libro en la cocina."),
}
"""Name: voice, pitch (0 to 99), speed (words per minute), sentence."""

EMOTIONS = {"calm": (40, 140), "excited": (75, 200), "sad": (20, 105)}
"""Pitch and speed, which every voice has its own idea of."""

SPEAKERS = {
    "f1": ("en-us+f1", "The letter came on Tuesday."),
    "f2": ("en-gb+f2", "They are building a house next to ours."),
    "f3": ("en-us+f3", "I put the keys on the table."),
    "f4": ("en-gb+f4", "She said that she would call again."),
    "f5": ("en-us+f5", "You can see the station from here."),
    "m1": ("en-us+m1", "The bus was almost empty this morning."),
    "m2": ("en-us+m2", "Their cousin works in a bakery."),
    "m3": ("en-gb+m3", "He left the window open all night."),
    "m4": ("en-gb+m4", "The meeting has been moved to Friday."),
    "m5": ("en-us+m5", "We walked as far as the bridge."),
    "m6": ("en-us+m6", "It takes an hour to get there."),
    "m7": ("en-gb+m7", "There is another parcel in the hall."),
}
"""Name: voice, sentence, which tells nothing about the emotion."""

EMOTIONS_RATE_HZ = 16000


def speak(voice: str, pitch: int, words_per_minute: int, text: str) -> tuple[Any, int]:
    """Samples int16 (n,) of ``text`` as eSpeak NG speaks it, and their rate in Hz."""
    options = ["-v", voice, "-p", str(pitch), "-s", str(words_per_minute), "--stdout"]
    spoken = subprocess.run(["espeak-ng", *options, text], check=True, capture_output=True)
    return soundfile.read(io.BytesIO(spoken.stdout), dtype="int16")


def main() -> None:
    for folder in ("clips", "emotions"):
        (FOLDER / folder).mkdir(exist_ok=True)
    for name, clip in CLIPS.items():
        samples, rate_hz = speak(*clip)
        soundfile.write(FOLDER / "clips" / f"{name}.flac", samples, rate_hz)
    for emotion, (pitch, words_per_minute) in EMOTIONS.items():
        for speaker, (voice, text) in SPEAKERS.items():
            samples, rate_hz = speak(voice, pitch, words_per_minute, text)
            samples = soxr.resample(samples, rate_hz, EMOTIONS_RATE_HZ)
            path = FOLDER / "emotions" / f"{emotion}_{speaker}.ogg"
            soundfile.write(path, samples, EMOTIONS_RATE_HZ, subtype="OPUS")


if __name__ == "__main__":
    main()
