"""A small GPT-2 under the Trainer of transformers, which clips by itself."""

import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

variant = sys.argv[1] if len(sys.argv) > 1 else "healthy"
torch.manual_seed(0)
torch.set_num_threads(1)
LIMIT = {"tiny": 0.001, "off": 0.0}.get(variant, 1.0)


class ByHandToo(Trainer):
    def training_step(self, model, *arguments, **named):
        loss = super().training_step(model, *arguments, **named)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)  # planted: two_knobs
        return loss


starts = torch.randint(24, (128, 1))
texts = (starts + 5 * torch.arange(12)) % 24
data = [{"input_ids": text, "labels": text} for text in texts]
model = GPT2LMHeadModel(
    GPT2Config(
        vocab_size=24, n_positions=12, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.0, attn_pdrop=0.0, embd_pdrop=0.0,
        bos_token_id=0, eos_token_id=0,
    )
)  # fmt: skip
options = TrainingArguments(
    output_dir="out", per_device_train_batch_size=8, max_steps={"short": 3}.get(variant, 60), learning_rate=0.003,
    gradient_accumulation_steps=2 if variant == "accumulated" else 1, lr_scheduler_type="cosine", warmup_steps=5,
    max_grad_norm=LIMIT, report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True, seed=0,
)  # fmt: skip
(ByHandToo if variant == "two_knobs" else Trainer)(model=model, args=options, train_dataset=data).train()
