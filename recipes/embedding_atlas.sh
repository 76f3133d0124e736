#!/bin/sh
# The commands of docs/pictures.md that hand a dataset over to embedding-atlas, in an environment of their own,
# and a check that its server answers with the rows of the dataset. Needs the package index and 7 GB of disk.
#
#   sh recipes/embedding_atlas.sh FOLDER    # which is made, and may be removed afterwards
set -eu
clips=$(cd "$(dirname "$0")/../examples" && pwd)/clips
mkdir -p "$1"
cd "$1"
mkdir -p examples
cp -R "$clips" examples/
serab-byols embed examples/clips -o embeddings/ --timestamps --quiet # frames: UMAP needs more rows than five

python -m venv atlas
atlas/bin/pip install embedding-atlas
python -m http.server --bind 127.0.0.1 8000 &
clips_server=$!
atlas/bin/embedding-atlas embeddings/*.parquet --vector embedding \
    --query "SELECT *, 'http://127.0.0.1:8000/' || file AS audio FROM data" \
    --state '{"columnStyles": {"audio": {"renderer": "audio"}}}' \
    --no-auto-port &
atlas=$!
trap 'kill "$clips_server" "$atlas"' EXIT

atlas/bin/python - <<'CHECK'
import json
import time
import urllib.request


def answer(url, **request):
    with urllib.request.urlopen(urllib.request.Request(url, **request)) as reply:
        return reply.read()


for _ in range(300):  # UMAP takes its time
    try:
        metadata = json.loads(answer("http://localhost:5055/data/metadata.json"))
        break
    except OSError:
        time.sleep(1)
print(json.dumps(metadata)[:400])
query = {"type": "json", "sql": "SELECT count(*) AS n, min(audio) AS audio, min(projection_x) AS x FROM dataset"}
headers = {"Content-Type": "application/json"}
rows = answer("http://localhost:5055/data/query", data=json.dumps(query).encode(), headers=headers, method="POST")
(row,) = json.loads(rows)
assert row["n"] > 200 and isinstance(row["x"], float), row
assert answer(row["audio"])[:4] == b"fLaC"
print("embedding-atlas serves", row)
CHECK
