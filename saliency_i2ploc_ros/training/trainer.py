"""The training loop of the dual encoder."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
import math
from pathlib import Path
import signal
import time
from typing import Any

import numpy as np
from rich.progress import TextColumn
import torch
from torch import nn, Tensor
from torch.utils.tensorboard import SummaryWriter

from .. import __version__
from ..encoders.dual import DualEncoder
from ..encoders.files import encoder_hash, load_model, save_model
from ..encoders.image import ImageEncoder
from ..encoders.weights import load_timm_vit
from ..errors import InputError
from ..evaluation.recall import recall_at
from ..progress import bar, console
from ..storage import commit, content_hash, read_json, sha256_file, write_json
from .batches import Batch, draw_batch, normalise
from .checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from .config import TrainingConfig
from .losses import (
    cloud_columns,
    contrastive_loss,
    distances,
    geometry_loss,
    GeometryHead,
    image_columns,
    Temperature,
)
from .pairs import BINS_PER_COLUMN, prepare_site, PreparedSite

RECALL_KS = (1, 5, 10, 20)


class TrainingTask(nn.Module):
    """All that is trained: the dual encoder, the temperature, and heads that are dropped later."""

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.config = config
        model = config.model
        self.encoder = DualEncoder(model)
        self.temperature = Temperature(
            config.temperature, config.min_temperature, config.max_temperature)
        self.columns = model.image.width // model.image.patch
        bins = BINS_PER_COLUMN * self.columns
        self.image_geometry = GeometryHead(model.image.dim, self.columns, bins)
        self.cloud_geometry = GeometryHead(model.cloud.dim, self.columns, bins)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of a batch: 'loss' is the one to descend, the others are its parts."""
        config = self.config
        image = self.encoder.encode_image(normalise(batch.images, config.model.image))
        cloud = self.encoder.encode_cloud(batch.groups, batch.centres)
        apart = distances(batch.image_xy, batch.site, batch.submap_xy, batch.site)
        contrast = contrastive_loss(
            image.descriptor, cloud.descriptor, apart, self.temperature(),
            config.positive_m, config.ignored_m)
        if config.geometry_weight == 0.0:
            return {'loss': contrast, 'contrast': contrast}
        seen = geometry_loss(
            self.image_geometry(image_columns(image.tokens, self.columns)), batch.profile)
        told = geometry_loss(
            self.cloud_geometry(cloud_columns(cloud.tokens, batch.column, self.columns)),
            batch.profile)
        return {'loss': contrast + config.geometry_weight * (seen + told),
                'contrast': contrast, 'image_geometry': seen, 'cloud_geometry': told}


def train(
    config: TrainingConfig, run: Path, resume: bool = False, init: Path | None = None,
) -> Path:
    """
    Train by the recipe into the folder `run`; return the folder of the finished model.

    `run` receives config.json, metrics.jsonl, tensorboard/, checkpoints/ and, whenever the
    held-out recall is the best so far (the last one without held-out sites), model/. Ctrl-C ends
    after the current step with a checkpoint; `resume` goes on from the newest one, to weights
    equal to the bit to those of a run that never stopped (same machine and thread count).
    init: see `start_from`.
    """
    torch.set_num_threads(config.threads)
    recipe = config.model_dump(mode='json')
    facts = {'recipe': content_hash(recipe)}
    checkpoint = latest_checkpoint(run)
    if checkpoint is not None and not resume:
        raise InputError(f'{run} holds a run already: pass --resume to go on with it, '
                         'or name another folder')
    if resume and checkpoint is None:
        raise InputError(f'there is no checkpoint in {run} to resume from: leave --resume out')

    if init is not None and not init.exists():
        raise InputError(f'there is nothing at {init} to begin with: name a model folder or a '
                         'safetensors file')

    sites = [prepare_site(site, config) for site in config.sites]
    held_out = [prepare_site(site, config) for site in config.held_out]
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    torch.manual_seed(config.seed)
    task = TrainingTask(config).to(device)
    if init is not None:
        start_from(init, task.encoder)
    optimizer = make_optimizer(task, config)
    step, best, origin = 0, -1.0, origin_of(config, init)
    if checkpoint is not None:
        step = load_checkpoint(checkpoint, task, optimizer, facts)
        state = read_json(checkpoint / 'state.json')
        best, origin = state['best'], state['origin']
        origin['resumed_with'] = [*origin.get('resumed_with', []), commit()]
    write_json(run / 'config.json', {'training': recipe, 'origin': origin})

    console.print(f'{sum(len(s.paired) for s in sites)} pairs of {len(sites)} sites, '
                  f'{len(held_out)} held out, {config.steps} steps on {device}')
    started, first_step = time.monotonic(), step
    columns = (TextColumn('loss {task.fields[loss]:.3f}  {task.fields[rate]:.0f} pairs/s  '
                          'recall@1 {task.fields[recall]:.1%}'),)
    with (SummaryWriter(str(run / 'tensorboard')) as board, bar(*columns) as progress,
          _interruptible() as interrupted):
        shown = progress.add_task('training', total=config.steps, completed=step,
                                  loss=math.nan, rate=0.0, recall=max(best, 0.0))
        while step < config.steps and not interrupted:
            losses = _one_step(task, optimizer, draw_batch(sites, config, step).to(device), step)
            step += 1
            last = step == config.steps
            rate = config.batch * (step - first_step) / (time.monotonic() - started)
            progress.update(shown, completed=step, rate=rate, loss=losses['contrast'])
            if step % 20 == 0 or last:
                for name, value in losses.items():
                    board.add_scalar(f'train/{name}', value, step)
            if step % config.evaluate_every == 0 or last:
                metrics = evaluate(task.encoder, held_out, config, device) if held_out else {}
                recall = metrics.get('recall@1', 0.0)
                progress.update(shown, recall=recall)
                _log(run, board, {'step': step, 'pairs_per_s': round(rate, 1), **losses,
                                  **metrics})
                if recall >= best:
                    best = recall
                    _export(task, run, step, metrics, origin)
            if step % config.checkpoint_every == 0 or last:
                save_checkpoint(run, step, task, optimizer,
                                {**facts, 'best': best, 'origin': origin})
    if step < config.steps:
        save_checkpoint(run, step, task, optimizer, {**facts, 'best': best, 'origin': origin})
        console.print(f'stopped after step {step}: pass --resume to go on')
    return run / 'model'


def start_from(init: Path, encoder: DualEncoder) -> None:
    """
    Load weights to begin with, in place.

    init: a model's folder (of the same configuration), or a safetensors file of a timm ViT for the
    image branch alone. What does not fit is an InputError.
    """
    if init.is_dir():
        other = load_model(init)
        if other.config != encoder.config:
            raise InputError(f'the model in {init} is built differently from the one to be '
                             'trained: choose its preset and settings')
        encoder.load_state_dict(other.state_dict())
    else:
        image_encoder = encoder.image.encoder
        assert isinstance(image_encoder, ImageEncoder)
        load_timm_vit(image_encoder, init)


def make_optimizer(task: TrainingTask, config: TrainingConfig) -> torch.optim.AdamW:
    """
    Return AdamW with a learning rate for each part, and no decay where decay does harm.

    One-dimensional parameters (norms, biases, the temperature), tokens and position tables are
    not decayed (Loshchilov and Hutter 2019; the usage of ViT training).
    """
    rates = {'encoder.image.encoder': config.lr_image, 'encoder.cloud.encoder': config.lr_cloud,
             'image_geometry': config.lr_image, 'cloud_geometry': config.lr_cloud,
             'temperature': config.lr_temperature}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in task.named_parameters():
        rate = next((r for part, r in rates.items() if name.startswith(part + '.')),
                    config.lr_aggregation)
        plain = parameter.ndim <= 1 or name.endswith(('pos_embed', 'cls_token'))
        decay = 0.0 if plain else config.weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW([
        {'params': parameters, 'lr': rate, 'peak_lr': rate, 'weight_decay': decay}
        for (rate, decay), parameters in groups.items()], betas=(0.9, 0.98))


def schedule(step: int, config: TrainingConfig) -> float:
    """Return the factor on the learning rates: linear warm-up, then a cosine down to zero."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    through = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return 0.5 * (1.0 + math.cos(math.pi * through))


def _one_step(
    task: TrainingTask, optimizer: torch.optim.Optimizer, batch: Batch, step: int,
) -> dict[str, float]:
    config = task.config
    for group in optimizer.param_groups:
        group['lr'] = group['peak_lr'] * schedule(step, config)
    task.train()
    with autocast(config.precision, batch.images.device):
        losses = task(batch)
    if not torch.isfinite(losses['loss']):
        raise InputError(f'the loss is {losses["loss"].item()} at step {step}: '
                         'lower the learning rates')
    optimizer.zero_grad(set_to_none=True)
    losses['loss'].backward()
    nn.utils.clip_grad_norm_(task.parameters(), config.clip_norm)
    optimizer.step()
    task.temperature.clamp()
    result = {name: float(value.detach()) for name, value in losses.items()}
    return {**result, 'temperature': float(task.temperature().detach())}


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context for a precision; 'auto' is bf16 on CUDA devices that have it."""
    bf16 = precision == 'bf16' or (
        precision == 'auto' and device.type == 'cuda' and torch.cuda.is_bf16_supported())
    return torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()


@torch.inference_mode()
def evaluate(
    encoder: DualEncoder, sites: list[PreparedSite], config: TrainingConfig,
    device: torch.device, chunk: int = 64,
) -> dict[str, float]:
    """
    Return Recall@k of every site's paired images among its submaps within `positive_m`.

    The mean over sites, as 'recall@1' and so on, with 'chance@1' beside it. The submaps are those
    of training, denser than a vehicle's map: the figure that counts is `i2ploc evaluate`'s.
    """
    encoder.eval()
    totals: dict[str, list[float]] = {}
    for site in sites:
        images = [encoder.encode_image(normalise(
            torch.from_numpy(site.images[rows]).to(device), config.model.image)).descriptor
            for rows in _chunks(site.paired, chunk)]
        clouds = [encoder.encode_cloud(torch.from_numpy(site.groups[rows]).to(device),
                                       torch.from_numpy(site.centres[rows]).to(device)).descriptor
                  for rows in _chunks(np.arange(len(site.groups)), chunk)]
        scores = torch.cat(images) @ torch.cat(clouds).T
        ranked = scores.topk(min(max(RECALL_KS), scores.shape[1])).indices.cpu().numpy()
        recall = recall_at(ranked, site.image_xy[site.paired], site.submap_xy, config.positive_m,
                           RECALL_KS)
        for k in RECALL_KS:
            totals.setdefault(f'recall@{k}', []).append(recall.values[k])
            totals.setdefault(f'chance@{k}', []).append(recall.chance[k])
    return {name: float(np.mean(values)) for name, values in totals.items()}


def _chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), size):
        yield rows[start:start + size]


def _export(
    task: TrainingTask, run: Path, step: int, metrics: dict[str, float], origin: dict[str, Any],
) -> None:
    save_model(task.encoder, run / 'model', {
        'step': step, 'temperature': round(float(task.temperature().detach()), 5),
        'held_out': {k: round(v, 4) for k, v in metrics.items()}, **origin})


def origin_of(config: TrainingConfig, init: Path | None) -> dict[str, Any]:
    """Return what a checkpoint and a model say of where they come from: no paths, for others."""
    recipe = config.model_dump(mode='json', exclude={'model', 'sites', 'held_out'})
    started = None
    if init is not None:
        started = encoder_hash(init) if init.is_dir() else sha256_file(init)
    return {'commit': commit(), 'version': __version__, 'init': started, 'recipe': recipe,
            'trained_on': sorted({name for _, name in config.drives(config.sites)}),
            'held_out_drives': sorted({name for _, name in config.drives(config.held_out)})}


def _log(run: Path, board: SummaryWriter, metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        if name.startswith(('recall', 'chance')):
            board.add_scalar(f'held_out/{name}', value, int(metrics['step']))
    with (run / 'metrics.jsonl').open('a', encoding='utf-8') as file:
        file.write(json.dumps({k: round(v, 5) for k, v in metrics.items()}) + '\n')
    if not console.is_terminal:
        console.print('  '.join(f'{k}={v:.4g}' for k, v in metrics.items()), soft_wrap=True)


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Yield a list that stays empty until Ctrl-C or a SIGTERM; the second one acts as usual."""
    caught: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
