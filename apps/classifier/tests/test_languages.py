from pathlib import Path

import numba
import numpy as np
import pytest

from apps.classifier import languages


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(folder))
    return folder


def test_tables_are_mapped_from_files_and_damaged_files_are_replaced(cache_folder: Path) -> None:
    expected = languages._convert_model()
    for _ in range(2):
        tables = languages._load_tables()
        assert all(map(np.array_equal, tables, expected))
        assert isinstance(tables.moves.base, np.memmap)
        (folder,) = cache_folder.iterdir()
        with (folder / "moves.npy").open("r+b") as file:
            file.truncate(1_000)


def test_tables_without_a_folder_that_can_be_written(cache_folder: Path) -> None:
    cache_folder.write_text("not a folder")
    assert not languages._load_tables().moves.flags.writeable
