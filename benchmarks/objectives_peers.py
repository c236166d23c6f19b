"""transformers' Trainer as the peer of masked language modelling and of ELECTRA.

The models are those of the published families in the same sizes as ours, with the fastest attention that transformers
has for them and padding; the batches come from its DataCollatorForLanguageModeling, padded to the longest sequence. For
ELECTRA, for which transformers has the two models but no way to train them together, `Electra` joins them.
"""

from __future__ import annotations

import math
import tempfile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import objectives_data as data
from benchmarks.objectives_measures import Case, Clocks, Speed, speed_since
from benchmarks.training_measures import wait
from benchmarks.training_peers import package_version
from training.config import ModelConfig, ObjectiveConfig
from training.models.replaced_token import generator_config

_WORKERS = 4
"""Processes that collate for a GPU."""


def absent() -> str | None:
    """Why there is no peer, or None where there is one."""
    missing = [name for name in ("transformers", "accelerate") if package_version(name) is None]
    return f"transformers' Trainer is absent: pip install {' '.join(missing)}" if missing else None


class Peer:
    """A model in training by transformers' Trainer; `batch_size` sequences hold at least `tokens_per_step` tokens.

    Its AdamW, clipping, sampling and logging are the Trainer's defaults, but that the loss is read as seldom as ours.
    With `case.compiled` sequences are padded to the full length, as torch.compile would else compile for each length.
    """

    def __init__(self, case: Case, tokens_per_step: float) -> None:
        self._case, config = case, case.objective_config
        documents = case.corpus().documents
        make = data.pairs if config.sentence_task == "next_sentence" else data.texts
        self.examples = list(make(documents, case.length))
        lengths = [len(example["input_ids"]) for example in self.examples]
        self.batch_size = math.ceil(tokens_per_step / float(np.mean(lengths)))
        torch.manual_seed(0)
        self.model = model_of(case.model_config, config, case.vocabulary)
        self._collator = collator(config, case.vocabulary, case.length if case.compiled else None)
        self._trained = 0

    def train(self, warmup: int, steps: int, windows: int = 1) -> list[Speed]:
        """Train on from where the last call ended, with a new optimiser and other batches; time windows of steps."""
        from transformers import Trainer, TrainerCallback, TrainingArguments
        from transformers.trainer_callback import PrinterCallback

        case, masks, speeds = self._case, [], []

        class Counting(Trainer):
            def training_step(self, model: nn.Module, inputs: dict[str, Tensor], *rest: Any, **more: Any) -> Tensor:
                masks.append(inputs["attention_mask"])
                return super().training_step(model, inputs, *rest, **more)

        class Clock(TrainerCallback):
            begin = Clocks.now()

            def on_step_end(self, args: Any, state: Any, control: Any, **facts: Any) -> None:
                done = state.global_step - warmup
                if done >= 0 and done % steps == 0:
                    wait(case.device)
                    if done:
                        speeds.append(speed_since(self.begin, masks))
                    masks.clear()
                    self.begin = Clocks.now()

        self._trained += 1
        with tempfile.TemporaryDirectory() as scratch:
            arguments = TrainingArguments(
                output_dir=scratch,
                per_device_train_batch_size=self.batch_size,
                max_steps=warmup + windows * steps,
                seed=self._trained,
                bf16=case.precision == "bf16",
                torch_compile=case.compiled,
                use_cpu=case.device == "cpu",
                dataloader_num_workers=_WORKERS if case.device == "cuda" else 0,
                dataloader_pin_memory=case.device == "cuda",
                remove_unused_columns=False,
                logging_steps=warmup + windows * steps,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            )
            trainer = Counting(
                model=self.model,
                args=arguments,
                data_collator=self._collator,
                train_dataset=self.examples,  # type: ignore[arg-type]
                callbacks=[Clock()],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        return speeds

    def window(self, warmup: int, steps: int) -> Speed:
        """One window."""
        return self.train(warmup, steps)[0]


def collator(config: ObjectiveConfig, vocabulary: int, padded_to: int | None = None) -> Any:
    """transformers' own, which masks anew at each visit; `padded_to` pads to a length, not to the longest sequence."""
    from tokenizers import Tokenizer, models
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(vocabulary)}
    names = {"pad_token": data.PADDING, "mask_token": data.MASK, "cls_token": data.FIRST, "sep_token": data.SEPARATOR}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w1")),
        **{name: f"w{number}" for name, number in names.items()},
    )
    masking = config.masking
    return DataCollatorForLanguageModeling(
        tokenizer,
        mlm_probability=masking.rate,
        mask_replace_prob=masking.mask_share,
        random_replace_prob=masking.random_share,
        pad_to_multiple_of=padded_to,
    )


def model_of(config: ModelConfig, objective: ObjectiveConfig, vocabulary: int) -> nn.Module:
    """BertForPreTraining, RobertaForMaskedLM or ELECTRA's two models, of the size of ours."""
    import transformers

    if config.architecture == "replaced_token":
        return Electra(config, vocabulary, objective.replaced_token.weight)
    if objective.sentence_task == "next_sentence":
        return transformers.BertForPreTraining(transformers.BertConfig(**_size(config, vocabulary)))
    size = _size(config, vocabulary)
    size["max_position_embeddings"] += 1 + data.PADDING  # its positions begin behind the padding id
    return transformers.RobertaForMaskedLM(
        transformers.RobertaConfig(**size, bos_token_id=data.FIRST, eos_token_id=data.SEPARATOR)
    )


class Electra(nn.Module):
    """Generator and discriminator over the same embeddings (Clark et al. 2020, section 2 and equation 1)."""

    def __init__(self, config: ModelConfig, vocabulary: int, weight: float) -> None:
        from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

        super().__init__()
        sizes = [
            {**_size(part, vocabulary), "embedding_size": config.width_of_embedding}
            for part in (config, generator_config(config))
        ]
        self.discriminator = ElectraForPreTraining(ElectraConfig(**sizes[0]))
        self.generator = ElectraForMaskedLM(ElectraConfig(**sizes[1]))
        self.generator.electra.embeddings = self.discriminator.electra.embeddings
        self.generator.generator_lm_head.weight = self.discriminator.electra.embeddings.word_embeddings.weight
        self._weight = weight

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """`loss`; of a batch as the collator makes it: masked ids, and labels that are -100 where nothing is masked."""
        common = {"attention_mask": attention_mask, "token_type_ids": token_type_ids}
        generated = self.generator(input_ids, labels=labels, **common)
        masked = labels != -100
        with torch.no_grad():  # a sample by Gumbel's method
            logits = generated.logits[masked].float()
            samples = (logits - torch.empty_like(logits).exponential_().log()).argmax(1)
        original = torch.where(masked, labels, input_ids)
        corrupted = original.masked_scatter(masked, samples)
        found = self.discriminator(corrupted, labels=(corrupted != original).long(), **common)
        return {"loss": generated.loss + self._weight * found.loss}


def _size(config: ModelConfig, vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden_width,
        "max_position_embeddings": config.context_length,
        "type_vocab_size": config.token_types,
        "hidden_act": config.mlp,
        "layer_norm_eps": config.norm_epsilon,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "pad_token_id": data.PADDING,
        "attn_implementation": "sdpa",
    }
