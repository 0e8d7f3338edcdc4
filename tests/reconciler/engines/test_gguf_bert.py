"""A converted encoder gives the vectors of the original."""

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from reconciler.engines.gguf_bert import convert
from schemas.errors import PermanentError
from schemas.local import Weights
from tests.reconciler.engines.conftest import MINILM, serving
from tests.reconciler.engines.reference import Encoder

SENTENCES = [
    "A cat sits on the mat.",
    "The feline rests on a rug.",
    "Interest rates rose sharply in March; unaffable wörld embeddings!",
    "The central bank made borrowing more expensive this spring.",
]


def post(url: str, path: str, body: object) -> Any:
    request = urllib.request.Request(
        f"{url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_llamacpp_answers_what_the_model_would(
    weights: Callable[[Weights], Path], tmp_path: Path
) -> None:
    folder = weights(MINILM)
    model = tmp_path / "model.gguf"
    convert(folder, model)
    reference = Encoder(folder)
    options = ("--model", str(model), "--alias", "embed", "--embedding")
    with serving("reconciler.engines.llamacpp", *options, "--context", "512") as url:
        answer = post(url, "/v1/embeddings", {"model": "embed", "input": SENTENCES})
        tokens = post(url, "/tokenize", {"content": SENTENCES[2], "add_special": True})[
            "tokens"
        ]
    vectors = np.array([item["embedding"] for item in answer["data"]])
    assert tokens == reference.tokens(SENTENCES[2])
    for vector, sentence in zip(vectors, SENTENCES, strict=True):
        # Cosine: 1 is the same direction; float32 against float16 arithmetic.
        assert float(vector @ reference.embed(sentence)) == pytest.approx(1, abs=1e-4)
    alike = vectors @ vectors.T
    assert alike[0, 1] > 0.5 > alike[0, 2]
    assert alike[2, 3] > alike[2, 0]


def tiny(folder: Path, **config: object) -> Path:
    """An encoder of one layer, with every tensor that a real one has."""
    (folder / "1_Pooling").mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[unused1]", "[", "##", "##s", "a"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False})
    )
    (folder / "config.json").write_text(
        json.dumps(
            {
                "model_type": "bert",
                "vocab_size": len(words),
                "hidden_size": 4,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "max_position_embeddings": 16,
                "type_vocab_size": 2,
                "layer_norm_eps": 1e-12,
                **config,
            }
        )
    )
    arrays: dict[str, NDArray[Any]] = {
        "embeddings.position_ids": np.arange(16, dtype=np.int64),
        "embeddings.word_embeddings.weight": np.ones((len(words), 4), np.float16),
        "embeddings.LayerNorm.bias": np.ones(4, np.float16),
        "encoder.layer.0.intermediate.dense.weight": np.ones((8, 4), np.float32),
        "pooler.dense.weight": np.ones((4, 4), np.float32),
    }
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data, types = b"", {"int64": "I64", "float16": "F16", "float32": "F32"}
    for name, array in arrays.items():
        end = len(data) + array.nbytes
        header[name] = {
            "dtype": types[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [len(data), end],
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    length = len(text).to_bytes(8, "little")
    (folder / "model.safetensors").write_bytes(length + text + data)
    return folder


def test_words_tensors_and_pooling_are_written_as_llamacpp_reads_them(
    tmp_path: Path,
) -> None:
    target = tmp_path / "model.gguf"
    convert(tiny(tmp_path / "model"), target)
    reader = gguf.GGUFReader(target)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    start = "\u2581"
    assert tokens == [
        *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[unused1]"),
        *(f"{start}[", f"{start}##", "s", f"{start}a"),
    ]
    assert reader.fields["bert.pooling_type"].contents() == gguf.PoolingType.MEAN
    assert reader.fields["bert.attention.causal"].contents() is False
    assert {t.name: t.tensor_type.name for t in reader.tensors} == {
        "token_embd.weight": "F16",
        "token_embd_norm.bias": "F32",
        "blk.0.ffn_up.weight": "F32",
    }
    assert list(tmp_path.glob("*.partial")) == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "llama"}, "its model_type is 'llama'"),
        ({"vocab_size": 5}, "9 tokens, not 5"),
    ],
)
def test_what_is_no_encoder_is_refused(
    tmp_path: Path, config: dict[str, object], said: str
) -> None:
    with pytest.raises(PermanentError, match=said):
        convert(tiny(tmp_path / "model", **config), tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_an_unknown_pooling_is_refused(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model")
    (folder / "1_Pooling" / "config.json").write_text("{}")
    with pytest.raises(PermanentError, match="its pooling is"):
        convert(folder, tmp_path / "model.gguf")
