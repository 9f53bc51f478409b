"""The pictures of faces68 as a chain of victims reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from attacks.fitting.faces import ReadFaces, read_faces
from victims.compact.training.faces68 import load_faces68
from victims.observe import Observer


def read_faces68(folder: Path, chain: Observer, validation: bool, limit: int, cache: Path) -> ReadFaces:
    """`limit` pictures of faces68, evenly over its people, as `chain` reads them.

    With `validation`, they are of the 36 people kept out. What was read is kept in the .npz file `cache`, and taken
    from there the next time.

    A face that the chain does not find is left out. Raises InputError where the set is missing.
    """
    faces = load_faces68(folder)
    rows = np.flatnonzero(faces.is_validation == validation)
    rows = rows[np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(int)]
    if cache.is_file():
        with np.load(cache, allow_pickle=False) as table:
            kept, read = table["rows"], {name: table[name] for name in table.files if name != "rows"}
        return ReadFaces([faces.images[row] for row in kept], **read)
    found, own = read_faces([faces.images[row] for row in rows], chain, faces.landmark_boxes()[rows])
    cache.parent.mkdir(parents=True, exist_ok=True)
    meshes = {} if own.meshes is None else {"meshes": own.meshes}
    read = {"boxes": own.boxes, "landmarks": own.landmarks, "gaze_angles": own.gaze_angles, **meshes}
    np.savez(cache, allow_pickle=False, rows=rows[found], **read)
    return own
