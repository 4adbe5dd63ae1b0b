"""Small models with random weights, laid out in a folder as their originals are on the hub."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaTokenizer,
)

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def deberta_v3(folder: Path, texts: Sequence[str]) -> None:
    """Half precision in a .bin, and a SentencePiece model with no tokenizer.json beside it."""
    (folder / "spm.model").write_bytes(_sentencepiece(texts))
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "vocab_type": "spm"}))
    config = DebertaV2Config(
        vocab_size=160, max_position_embeddings=64, relative_attention=True, position_buckets=8, type_vocab_size=0,
        norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type="p2c|c2p", position_biased_input=False,
        initializer_range=0.1, **SIZES,
    )  # fmt: skip
    config.save_pretrained(folder)
    torch.save(DebertaV2ForMaskedLM(config).half().state_dict(), folder / "pytorch_model.bin")


def modernbert(folder: Path, texts: Sequence[str]) -> None:
    """Byte-level BPE whose padding has the highest number, and layers that see a few tokens only."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]", "[PAD]"]
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=200, special_tokens=special[:-1], show_progress=False)
    )
    tokenizer.add_special_tokens(special[-1:])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        pad_token="[PAD]", model_max_length=64, model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    size = tokenizer.get_vocab_size()
    ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=size, max_position_embeddings=64, pad_token_id=size - 1, cls_token_id=1, bos_token_id=1,
            sep_token_id=2, eos_token_id=2, local_attention=8, initializer_range=0.1, **SIZES,
        )
    ).save_pretrained(folder)  # fmt: skip


def xlm_roberta(folder: Path, texts: Sequence[str]) -> None:
    """Unigram pieces between <s> and </s>, padding number 1, positions that start after it."""
    model = SentencePieceProcessor(model_proto=_sentencepiece(texts))
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(4, len(model))]
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    tokenizer = XLMRobertaTokenizer(vocab=[*special, *pieces, ("<mask>", 0.0)], model_max_length=64)
    tokenizer.save_pretrained(folder)
    XLMRobertaForMaskedLM(
        XLMRobertaConfig(
            vocab_size=len(tokenizer), max_position_embeddings=66, type_vocab_size=1, initializer_range=0.1, **SIZES
        )
    ).save_pretrained(folder)


def _sentencepiece(texts: Sequence[str]) -> bytes:
    """A SentencePiece model whose special pieces stand where DeBERTa-v3 has them."""
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=written, vocab_size=150, hard_vocab_limit=False,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]",
        unk_piece="[UNK]", minloglevel=2,
    )  # fmt: skip
    return written.getvalue()


HUB: dict[str, Callable[[Path, Sequence[str]], None]] = {
    "microsoft/deberta-v3-base": deberta_v3,
    "answerdotai/ModernBERT-base": modernbert,
    "FacebookAI/xlm-roberta-base": xlm_roberta,
}
