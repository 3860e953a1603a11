"""`analysis.parquet`: reading and writing it; one row a unit of any study.

The reader needs no torch and no umap-learn. It takes the narrow columns of all rows at once, and
texts and tokens of the few rows that are looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from helpers.analysis_table.about import PROBE_PARTS, About, Column, Tokens, columns
from helpers.errors import UserError
from helpers.evaluation.records import as_plain, from_plain
from helpers.progress import Progress
from helpers.store.cache import Store, content_key
from helpers.store.files import whole_file

FILE_NAME = "analysis.parquet"
FORMAT_VERSION = 2
ROWS_PER_GROUP = 256
METADATA_KEY = b"uncertainty_probes"
LARGEST_METADATA = 500_000  # bytes; what a file says of itself is shown to everyone, and is short

# --- reading -------------------------------------------------------------------------------------


def arrow_schema(about: About) -> Any:
    """The columns of a file as a schema of pyarrow."""
    import pyarrow as pa

    types = {
        "text": pa.string(), "name": pa.dictionary(pa.int32(), pa.string()), "whole": pa.int32(),
        "number": pa.float32(), "yes-no": pa.bool_(), "texts": pa.list_(pa.string()),
        "numbers": pa.list_(pa.float32()),
    }  # fmt: skip
    return pa.schema([pa.field(c.name, types[c.kind], c.optional) for c in columns(about)])


@dataclass(frozen=True, eq=False)
class AnalysisTable:
    """All rows of the narrow columns; `table["umap_x"]` is an array `[n]`.

    Texts of few values are codes into `names` (-1: unknown). Numbers are float32, NaN where
    unknown; `representative` is bool; whole numbers are int32.
    """

    path: Path
    about: About
    columns: dict[str, np.ndarray]
    names: dict[str, tuple[str, ...]]
    """By coded column: group_id, dataset, split, and every label's."""

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.columns["unit_id"])

    def words(self, name: str, rows: Any = slice(None)) -> list[str | None]:
        """A coded column as text, of all or some rows."""
        names = self.names[name]
        return [names[code] if code >= 0 else None for code in self.columns[name][rows].tolist()]

    def truth(self, label: str, rows: Any = slice(None)) -> np.ndarray:
        """Whether a label is positive, `[n]` float64: 1.0, 0.0, or NaN where it is neither."""
        said = self.about.label(label)
        codes, names = self.columns[said.column][rows], self.names[said.column]
        found = np.full(len(codes), np.nan)
        for value, name in ((1.0, said.positive), (0.0, said.negative)):
            if name:
                found[codes == names.index(name)] = value
        return found


@dataclass(frozen=True, eq=False)
class UnitDetails:
    """Texts and tokens of one row, by the names that the file gives them."""

    row: int
    texts: dict[str, str | None]
    tokens: dict[str, Tokens]


def read_narrow(path: Path) -> AnalysisTable:
    """All rows of the columns that are no long texts.

    Raises `UserError` when the file is absent, damaged, of another format, or not such a table.
    """
    with _opened(path) as (file, about):
        narrow = [column for column in columns(about) if not column.wide]
        table = file.read(columns=[column.name for column in narrow], use_threads=False)
        found, names = {}, {}
        for column in narrow:
            values = table.column(column.name)
            if values.null_count and not column.optional:
                raise _refused(path, f"column {column.name!r} has empty cells")
            if column.kind == "name" or column.name == "group_id":
                found[column.name], names[column.name] = _codes(path, column, values)
            else:
                found[column.name] = _numbers(column, values)
        return AnalysisTable(Path(path), about, found, names)


def read_details(path: Path, rows: Sequence[int]) -> list[UnitDetails]:
    """Texts and tokens of some rows, in the order asked for; only their row groups are read.

    Raises IndexError for a row that is not in the file, and `UserError` as `read_narrow` does.
    """
    with _opened(path) as (file, about):
        wide = [column for column in columns(about) if column.wide]
        found = _read_rows(file, rows, [column.name for column in wide])
        return [_details(path, r, v, about, wide) for r, v in zip(rows, found, strict=True)]


def _read_rows(file: Any, rows: Sequence[int], names: list[str]) -> list[dict[str, Any]]:
    groups = range(file.metadata.num_row_groups)
    starts = [0, *accumulate(file.metadata.row_group(i).num_rows for i in groups)]
    asked = np.asarray(rows, dtype=np.int64).reshape(-1)
    if len(asked) and not 0 <= asked.min() <= asked.max() < starts[-1]:
        raise IndexError(f"rows {asked.min()} … {asked.max()} of a file of {starts[-1]} rows")
    owners = np.searchsorted(starts, asked, side="right") - 1
    found: dict[int, dict[str, Any]] = {}
    for group in np.unique(owners).tolist():
        inside = np.unique(asked[owners == group])
        part = file.read_row_group(group, columns=names, use_threads=False)
        values = part.take(inside - starts[group]).to_pylist()
        found.update(zip(inside.tolist(), values, strict=True))
    return [found[row] for row in asked.tolist()]


def _details(
    path: Path, row: int, values: dict[str, Any], about: About, wide: Sequence[Column]
) -> UnitDetails:
    for column in wide:
        if not column.optional and values[column.name] is None:
            raise _refused(path, f"column {column.name!r} has empty cells")
    texts, tokens = {}, {}
    for text in about.texts:
        if text.kind == "text":
            texts[text.name] = values[f"text_{text.name}"]
            continue
        entropies = np.array(values[f"entropies_{text.name}"], dtype=np.float32)
        entropies[~np.isfinite(entropies)] = np.nan
        said = tuple(token or "" for token in values[f"text_{text.name}"])
        tokens[text.name] = Tokens(said, entropies)
    return UnitDetails(int(row), texts, tokens)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, About]]:
    """The file with its schema and metadata checked; what fails inside names the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} is missing; `sep analysis {path.parent}` writes it")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            about = _about(path, file.metadata)
            _check_schema(path, file.schema_arrow, about)
            yield file, about
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _refused(path, f"cannot be read ({str(error).splitlines()[0]})") from error


def _about(path: Path, found: Any) -> About:
    text = (found.metadata or {}).get(METADATA_KEY)
    if text is None:
        raise _refused(path, "is a Parquet file, but no analysis of a run (it has no metadata)")
    if len(text) > LARGEST_METADATA:
        raise _refused(path, f"has {len(text):,} bytes of metadata, which is too much")
    try:
        said = json.loads(text)
        version, rows = said["format_version"], said.get("rows")
        if version != FORMAT_VERSION:
            raise UserError(
                f"{path} was written in format {version} by "
                f"{said.get('written_by', 'an unknown version')}, and this is format "
                f"{FORMAT_VERSION}; open it with that version, or `sep analysis {path.parent}` "
                "writes it anew"
            )
        about: About = from_plain(About, said)
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _refused(path, f"has metadata that cannot be read ({error})") from error
    if rows != found.num_rows:
        raise _refused(path, f"has {found.num_rows} rows where its metadata says {rows}")
    return about


def _check_schema(path: Path, found: Any, about: About) -> None:
    expected = arrow_schema(about)
    if missing := [name for name in expected.names if found.names.count(name) != 1]:
        raise _refused(path, f"has no column {', '.join(map(repr, missing))}")
    for column in columns(about):
        kind, wanted = found.field(column.name).type, expected.field(column.name).type
        if not kind.equals(wanted):
            raise _refused(path, f"column {column.name!r} is {kind} instead of {wanted}")


def _refused(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: {reason}; `sep analysis {Path(path).parent}` writes it anew")


def _numbers(column: Column, values: Any) -> np.ndarray:
    if column.kind == "whole":
        return values.to_numpy().astype(np.int32, copy=False)
    if column.name == "representative":
        return values.to_numpy().astype(bool)
    import pyarrow as pa

    numbers = values.cast(pa.float32()).to_numpy()  # null becomes NaN
    return np.where(np.isfinite(numbers), numbers, np.float32(np.nan))


def _codes(path: Path, column: Column, values: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Codes `[n]` (int8 where they fit), -1 where unknown, and the names: given, or as found."""
    plain = values if column.kind == "name" else values.dictionary_encode()
    whole = plain.unify_dictionaries().combine_chunks()
    found = tuple(whole.dictionary.to_pylist()) if len(whole) else ()
    codes = whole.indices.fill_null(-1).to_numpy().astype(np.int32)
    names = tuple(dict.fromkeys(found)) if column.names is None else column.names
    places = {word: place for place, word in enumerate(names) if word is not None}
    if odd := [word for word in found if word not in places]:
        raise _refused(path, f"column {column.name!r} has the unknown value {str(odd[0])[:40]!r}")
    order = np.array([*(places[word] for word in found), -1], dtype=np.int32)
    small = np.int32 if column.names is None or len(names) > 127 else np.int8
    return order[codes].astype(small), names


# --- writing -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class UnitRows:
    """The rows of a file but their texts, in one order; every array is `[n]`."""

    group_id: Sequence[str] | np.ndarray
    unit_id: Sequence[int] | np.ndarray
    dataset: Sequence[str] | np.ndarray
    split: Sequence[str] | np.ndarray
    labels: Mapping[str, Sequence[str | None] | np.ndarray]
    """By label: the class of each row, None where it is not known."""
    predictions: Mapping[str, Mapping[str, np.ndarray]]
    """By predictor: probability, margin and projection; one that is absent says nothing."""
    numbers: Mapping[str, Sequence[float] | np.ndarray]
    """By number, NaN where it is not known."""
    representative: np.ndarray | None = None
    """Mask; None for a file without this column."""
    coordinates: np.ndarray | None = field(default=None)
    """`[n, 2]` on the map; None where they are still to come, or there is no map."""

    def __len__(self) -> int:
        return len(self.group_id)


TextsOfRow = Callable[[int], Mapping[str, "str | Tokens | None"]]
"""The texts and tokens of a row, by name."""


def write_analysis_table(
    path: Path,
    about: About,
    rows: UnitRows,
    texts: TextsOfRow,
    *,
    states: np.ndarray | None = None,
    seed: int = 0,
    store: Store | None = None,
    progress: Progress,
) -> None:
    """Write the file of any study; `states` [n, width], if given, are laid out on a map.

    Texts are made a row group at a time, so that memory holds one. `about.notes["umap"]` says what
    the states are; how the map was made is added to it. Raises ValueError where rows do not fit
    `about`, and `UserError` when umap-learn is not installed or the disk is full.
    """
    if states is not None:
        if len(states) != len(rows):
            raise ValueError(f"{len(states)} states of {len(rows)} rows")
        shown = umap_coordinates(states, seed=seed, store=store, progress=progress)
        note = f"{about.notes.get('umap', '')} {shown.note}".strip()
        about = replace(about, notes={**about.notes, "umap": note})
        rows = replace(rows, coordinates=shown.coordinates)
    with progress("Writing the analysis table", len(rows), about.unit.many) as stage:
        _write(path, about, _row_groups(about, rows, texts, stage.advance), len(rows))


def _narrow(about: About, rows: UnitRows) -> dict[str, Any]:
    unknown = np.full(len(rows), np.nan)
    places = np.stack([unknown, unknown], axis=1) if rows.coordinates is None else rows.coordinates
    found: dict[str, Any] = {name: getattr(rows, name) for name in ("group_id", "unit_id")}
    found |= {"dataset": rows.dataset, "split": rows.split}
    found |= {about.label(name).column: values for name, values in rows.labels.items()}
    for predictor in about.predictors:
        said = rows.predictions.get(predictor.name, {})
        found |= {f"{part}_{predictor.name}": said.get(part, unknown) for part in PROBE_PARTS}
    found |= {f"number_{name}": values for name, values in rows.numbers.items()}
    found |= {"umap_x": places[:, 0], "umap_y": places[:, 1]}
    if rows.representative is not None:
        found["representative"] = rows.representative
    return found


def _row_groups(
    about: About, rows: UnitRows, texts: TextsOfRow, advance: Callable[[int], None]
) -> Iterator[dict[str, Any]]:
    """The columns of one row group after the other."""
    narrow = _narrow(about, rows)
    for start in range(0, len(rows), ROWS_PER_GROUP):
        end = min(start + ROWS_PER_GROUP, len(rows))
        group = {name: values[start:end] for name, values in narrow.items()}
        made = [texts(row) for row in range(start, end)]
        for name in made[0]:
            found = [row[name] for row in made]
            tokens = [value for value in found if isinstance(value, Tokens)]
            if tokens:
                group[f"text_{name}"] = [value.texts for value in tokens]
                group[f"entropies_{name}"] = [value.entropies for value in tokens]
            else:
                group[f"text_{name}"] = found
        yield group
        advance(end - start)


def _write(path: Path, about: About, groups: Iterator[dict[str, Any]], rows: int) -> None:
    import pyarrow.parquet as pq

    try:
        ours = metadata.version("uncertainty-probes")
    except metadata.PackageNotFoundError:
        ours = "of unknown version"
    said = {
        "format_version": FORMAT_VERSION,
        "written_by": f"uncertainty-probes {ours}",
        "rows": rows,
        **as_plain(about),
        "columns": {column.name: column.about for column in columns(about)},
    }
    text = json.dumps(said, ensure_ascii=False, allow_nan=False)
    schema = arrow_schema(about).with_metadata({METADATA_KEY: text.encode()})
    # To Parquet a list's items have a name of their own.
    item = {"texts": ".list.element", "text": "", "name": ""}
    repeating = [f"{c.name}{item[c.kind]}" for c in columns(about) if c.kind in item]
    with (
        whole_file(path) as file,
        pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            use_dictionary=repeating,
            write_statistics=False,
            write_page_checksum=True,
        ) as writer,
    ):
        for group in groups:
            writer.write_table(_table(group, schema, about), row_group_size=ROWS_PER_GROUP)


def _table(values: Mapping[str, Sequence | np.ndarray], schema: Any, about: About) -> Any:
    """One group of rows as an Arrow table of the schema."""
    import pyarrow as pa

    if set(values) != set(schema.names):
        odd = sorted(set(values) ^ set(schema.names))
        raise ValueError(f"columns that are missing or unknown: {', '.join(odd)}")
    arrays = []
    for column in columns(about):
        array = _array(column, values[column.name], schema.field(column.name).type)
        if array.null_count and not column.optional:
            raise ValueError(f"column {column.name!r} has empty cells")
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(column: Column, values: Sequence | np.ndarray, kind: Any) -> Any:
    import pyarrow as pa

    if column.kind in ("number", "yes-no"):
        numbers = np.array(values, dtype=np.float64)  # None becomes NaN
        with np.errstate(over="ignore"):  # what is too large for 32 bits is unknown, too
            small = numbers.astype(np.float32)
        plain = small > 0 if column.kind == "yes-no" else small
        return pa.array(plain, kind, mask=~np.isfinite(small))
    if column.kind == "whole":
        return pa.array(np.asarray(values), kind)
    if column.kind in ("text", "name"):
        texts = [None if value is None else _encodable(str(value)) for value in values]
        if column.names is not None and (odd := set(texts) - {None, *column.names}):
            raise ValueError(f"column {column.name!r} has the unknown value {odd.pop()!r}")
        plain_texts = pa.array(texts, pa.string())
        return plain_texts.dictionary_encode() if column.kind == "name" else plain_texts
    if column.kind == "texts":
        return pa.array([[_encodable(text) for text in row] for row in values], kind)
    return pa.array([np.asarray(row, dtype=np.float32) for row in values], kind)


def _encodable(text: str) -> str:
    """The text with lone surrogates, which no file can hold, replaced by question marks."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


# --- the map -------------------------------------------------------------------------------------
#
# Two UMAP coordinates a row, the same for the same seed. McInnes, Healy and Melville, 2018; UMAP
# starts from the first principal components (Kobak and Linderman, Nature Biotechnology 2021).


MAP_VERSION = 2
FITTED_AT_MOST = 20_000
DIMENSIONS = 50  # principal components that are kept of wider features
FEWEST = 5  # distinct rows that UMAP needs to say anything
NEIGHBOURS, MIN_DIST, EPOCHS = 15, 0.1, 200
UMAP_SETTINGS: dict[str, Any] = {
    "n_neighbors": NEIGHBOURS, "min_dist": MIN_DIST, "n_epochs": EPOCHS, "init": "pca",
}  # fmt: skip
ROWS_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class UmapMap:
    """Coordinates of every row, and how they came about."""

    coordinates: np.ndarray  # `[n, 2]`, float32, without a unit; NaN for a row that is not finite
    note: str  # in sentences, for who looks at the map


def umap_coordinates(
    features: np.ndarray,
    *,
    seed: int,
    store: Store | None,
    progress: Progress,
    fitted_at_most: int = FITTED_AT_MOST,
) -> UmapMap:
    """A map of `features` [n, width], which may be mapped from disk.

    Features are standardised and reduced to at most 50 principal components. Of more than
    `fitted_at_most` rows a random subset is fitted; the others are placed at the mean of
    their nearest neighbours in it, weighted by inverse distance. Stored by content, seed and
    version of umap-learn. Raises `UserError` when umap-learn is not installed.
    """
    try:
        version = metadata.version("umap-learn")  # importing it would take seconds
    except metadata.PackageNotFoundError as error:
        raise UserError(
            "the map of hidden states needs umap-learn; `uv sync`, or pip install "
            "'uncertainty-probes[pipeline]', installs it"
        ) from error
    hashed, finite = _look_through(features)
    settings: dict[str, Any] = {"dimensions": DIMENSIONS, "seed": seed, **UMAP_SETTINGS}
    key = content_key(
        stage="umap", version=MAP_VERSION, features=hashed, umap_learn=version,
        fitted_at_most=fitted_at_most, **settings,
    )  # fmt: skip
    rows = np.flatnonzero(finite)
    fitted = np.sort(np.random.default_rng(seed).permutation(rows)[:fitted_at_most])
    known = store.get_arrays(key) if store is not None else None
    if known is None:
        known = {"coordinates": np.full((len(features), 2), np.nan, dtype=np.float32)}
        if len({features[row].tobytes() for row in fitted}) >= FEWEST:
            others = np.setdiff1d(rows, fitted)
            fit, placed = _layout(features, fitted, others, seed, progress)
            known["coordinates"][fitted], known["coordinates"][others] = fit, placed
        if store is not None:
            store.put_arrays(key, known)
    coordinates = known["coordinates"]
    if np.isnan(coordinates).all():
        return UmapMap(coordinates, f"There is no map: fewer than {FEWEST} runs differ.")
    note = (
        f"UMAP (umap-learn {version}, {NEIGHBOURS} neighbours, min_dist {MIN_DIST}, {EPOCHS} "
        f"epochs from the first principal components, seed {seed}) of standardised states reduced "
        f"to at most {DIMENSIONS} principal components."
    )
    if left := len(rows) - len(fitted):
        note += f" Fitted on {len(fitted):,} runs chosen at random; the other {left:,} were placed."
    if left := len(features) - len(rows):
        note += f" {left:,} runs are not shown: their hidden states are not finite."
    return UmapMap(coordinates, note)


def _look_through(features: np.ndarray) -> tuple[str, np.ndarray]:
    """The hash of the features, and a mask `[n]` of the rows that are finite."""
    digest = hashlib.sha256(f"{features.dtype} {features.shape}".encode())
    finite = np.zeros(len(features), dtype=bool)
    for start in range(0, len(features), ROWS_AT_ONCE):
        block = np.ascontiguousarray(features[start : start + ROWS_AT_ONCE])
        digest.update(block.tobytes())
        finite[start : start + ROWS_AT_ONCE] = np.isfinite(block).all(axis=1)
    return digest.hexdigest(), finite


def _layout(
    features: np.ndarray, fitted: np.ndarray, others: np.ndarray, seed: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the rows that UMAP is fitted to, and of those that it places afterwards."""
    title = "UMAP: hidden states in two dimensions"
    with progress(title, len(fitted) + len(others), "runs") as stage, warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"Tensorflow not installed|n_jobs value|precomputed_knn\[2\]"
        )
        from sklearn.decomposition import PCA
        from sklearn.neighbors import KNeighborsRegressor, NearestNeighbors
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from threadpoolctl import threadpool_limits
        from umap import UMAP

        # The last digits of a product depend on the number of threads, and the layout on those.
        with threadpool_limits(limits=1):  # of the libraries that are loaded by now
            state = seed % 2**32
            chosen = np.asarray(features[fitted], dtype=np.float32)
            kept = min(DIMENSIONS, *chosen.shape)
            reduce = make_pipeline(StandardScaler(), PCA(kept, random_state=state))
            values = reduce.fit_transform(chosen)
            count = min(NEIGHBOURS, len(fitted) - 1)
            distances, near = NearestNeighbors(n_neighbors=count).fit(values).kneighbors(values)
            settings = UMAP_SETTINGS | {"n_neighbors": count, "random_state": state, "n_jobs": 1}
            layout = UMAP(**settings, precomputed_knn=(near, distances, None)).fit_transform(values)
            stage.advance(len(fitted))
            # UMAP's own transform compiles for minutes, and would need its approximate search.
            place = KNeighborsRegressor(count, weights="distance").fit(values, layout).predict
            blocks = [
                others[start : start + ROWS_AT_ONCE]
                for start in range(0, len(others), ROWS_AT_ONCE)
            ]
            placed = [place(reduce.transform(features[b].astype(np.float32))) for b in blocks]
            stage.advance(len(others))
    return layout, np.concatenate([np.zeros((0, 2)), *placed])
