"""The training loop: it begins or resumes a run, steps, saves, and asks held-out sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
from functools import partial
import json
import math
from pathlib import Path
import signal
import time
from typing import Any

from rich.progress import Progress, TextColumn
import torch
from torch import nn, Tensor
from torch.utils.tensorboard import SummaryWriter

from ..distributed import barrier, device_of, in_turn, start, stop, sum_over, World, world
from ..encoders.files import save_model
from ..errors import InputError
from ..progress import bar, console, track
from ..storage import atomic_file, commit, content_hash, read_json, write_json
from .batches import draw_batch
from .checkpoints import latest_checkpoint, load_checkpoint, save_checkpoint
from .config import TrainingConfig
from .held_out import evaluate
from .optimizer import make_optimizer, schedule
from .origin import origin_of, start_from
from .pairs import prepare_site, PreparedSite
from .steps import CachedStep, recompute_blocks
from .task import TrainingTask
from .verification import draw_candidates, encoded_site, VerifierStep


def train(
    config: TrainingConfig, run: Path, resume: bool = False, init: Path | None = None,
    lengthen: bool = False,
) -> Path:
    """
    Train by the recipe into the folder `run`; return the folder of the finished model.

    `run` receives config.json, metrics.jsonl, tensorboard/, checkpoints/ and, whenever the
    held-out recall is the best so far (the last one without held-out sites), model/. Ctrl-C ends
    it with a checkpoint, which is also written every `checkpoint_minutes`; `resume` goes on from
    the newest one, to weights equal to the bit to those of a run that never stopped (same machine
    and thread count). lengthen: let a resumed run have more steps than it was begun with.
    init: see `start_from`; where a verifier is trained, a model's folder. Under `torchrun` the
    processes share each batch (see `steps`) and the folder `run`, into which the first one writes.
    """
    here = world()
    if config.trains == 'verifier' and here.size > 1:
        raise InputError('a verifier is trained by one process: start it without torchrun')
    if config.batch < here.size:
        raise InputError(f'{config.batch} pairs cannot be shared by {here.size} processes: set a '
                         'larger batch, or start fewer')
    torch.set_num_threads(config.threads)
    checkpoint = _checkpoint_of(run, resume)
    if init is not None and not init.exists():
        raise InputError(f'there is nothing at {init} to begin with: name a model folder or a '
                         'safetensors file')
    if config.trains == 'verifier' and checkpoint is None and (init is None or not init.is_dir()):
        raise InputError('a verifier is trained on encoders that are done: name the folder of '
                         'their model with --init')
    start(here)
    try:
        with in_turn(here):
            sites = [prepare_site(site, config) for site in config.sites]
            held_out = [prepare_site(site, config, as_map=True)
                        for site in config.held_out] if here.writes else []
        trainer = Trainer(resolved(config, sum(len(site.paired) for site in sites)), run, here,
                          init)
        if checkpoint is not None:
            trainer.restore(checkpoint, lengthen)
        trainer.loop(sites, held_out)
        # All leave together: gloo aborts a process that ends while another still works.
        barrier(here)
    finally:
        stop(here)
    return run / 'model'


def _checkpoint_of(run: Path, resume: bool) -> Path | None:
    checkpoint = latest_checkpoint(run)
    if checkpoint is not None and not resume:
        raise InputError(f'{run} holds a run already: pass --resume to go on with it, '
                         'or name another folder')
    if resume and checkpoint is None:
        raise InputError(f'there is no checkpoint in {run} to resume from: leave --resume out')
    return checkpoint


def resolved(config: TrainingConfig, pairs: int) -> TrainingConfig:
    """Return the recipe with its epochs, if it has any, told in steps; pairs: of all sites."""
    def steps(epochs: float) -> int:
        return max(math.ceil(epochs * pairs / config.batch), 1)

    changes: dict[str, Any] = {'epochs': None, 'warmup_epochs': None}
    if config.epochs is not None:
        changes['steps'] = steps(config.epochs)
    if config.warmup_epochs is not None:
        changes['warmup_steps'] = steps(config.warmup_epochs) if config.warmup_epochs else 0
    return config.model_copy(update=changes)


class Trainer:
    """One run on one of its processes: what is trained, how far it is, where it writes."""

    def __init__(
        self, config: TrainingConfig, run: Path, here: World, init: Path | None,
    ) -> None:
        self.config, self.run, self.world = config, run, here
        self.device = device_of()
        torch.manual_seed(config.seed)
        self.task = TrainingTask(config).to(self.device)
        if init is not None:
            start_from(init, self.task.encoder)
            if self.task.average is not None:
                self.task.average.load_state_dict(self.task.encoder.state_dict())
        if config.recompute:
            recompute_blocks(self.task.encoder)
        self.optimizer = make_optimizer(self.task, config)
        self.origin = origin_of(config, init)
        self.step, self.evaluated, self.best = 0, 0, -1.0
        self.within: dict[str, Tensor] = {}  # what is done of the next step
        self.saved = time.monotonic()
        self.interrupted: list[int] = []
        self.tell: Callable[..., None] = lambda **shown: None  # the progress bar, while it is up

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint must have in common with the recipe that resumes it."""
        return {'recipe': content_hash(self.config.model_dump(mode='json', exclude={'steps'}))}

    def restore(self, checkpoint: Path, lengthen: bool) -> None:
        """Go on from a checkpoint; an InputError says why not."""
        state = read_json(checkpoint / 'state.json')
        begun, now = state.get('steps'), self.config.steps
        if begun != now and not (lengthen and begun is not None and now > begun):
            raise InputError(f'{self.run} was begun with {begun} steps, not {now}: resume without '
                             'another number, or lengthen it with --lengthen, which stretches '
                             'the schedule of the learning rates')
        self.within = load_checkpoint(checkpoint, self.task, self.optimizer, self.facts())
        if self.world.size > 1:
            self.within = {}  # kept by one process for itself alone
        self.step, self.evaluated, self.best = (
            state[name] for name in ('step', 'evaluated', 'best'))
        self.origin = {**state['origin'], 'resumed_with': [
            *state['origin'].get('resumed_with', []), commit()]}
        if now != begun:
            self.origin['lengthened'] = [*self.origin.get('lengthened', []), [self.step, now]]

    def loop(self, sites: list[PreparedSite], held_out: list[PreparedSite]) -> None:
        """Step until all steps are done or someone interrupts."""
        config = self.config
        if self.world.writes:
            write_json(self.run / 'config.json', {
                'training': config.model_dump(mode='json'), 'origin': self.origin})
            _forget_after(self.run / 'metrics.jsonl', self.evaluated)
            pairs = sum(len(site.paired) for site in sites)
            console.print(f'{pairs} pairs of {len(sites)} sites, {len(held_out)} held out, '
                          f'{config.steps} steps on {self.world.size} x {self.device}')
        with (self._board() as board, self._bar() as progress,
              _interruptible() as self.interrupted):
            shown = progress.add_task('training', total=config.steps, completed=self.step,
                                      loss=math.nan, rate=0.0, recall=max(self.best, 0.0))
            self.tell = partial(progress.update, shown)
            losses: dict[str, float] = {}
            draw = self._drawing(sites)
            started, first = time.monotonic(), self.step
            try:
                while True:
                    self._judge(held_out, board, losses)
                    if self._ends():
                        break
                    losses = self.one_step(draw(0 if config.overfit else self.step))
                    rate = config.batch * (self.step - first) / (time.monotonic() - started)
                    losses['pairs_per_s'] = round(rate, 1)
                    self.tell(completed=self.step, rate=rate, loss=losses['loss'],
                              recall=max(self.best, 0.0))
                    self._note(board, losses)
                    if self.step % config.checkpoint_every == 0 or self._time_to_save():
                        self.save()
                self.save()
            except _Stopped as stopped:
                self.save(stopped.gradient)
        if self.step < config.steps and self.world.writes:
            console.print(f'stopped after step {self.step}: pass --resume to go on')

    def _drawing(
        self, sites: list[PreparedSite],
    ) -> Callable[[int], CachedStep | VerifierStep]:
        """Return what makes the next step with the batch of a number."""
        config = self.config
        if config.trains == 'encoders':
            return lambda number: CachedStep(
                self.task, draw_batch(sites, config, number), self.step, self.world)
        encoder = self.task.encoder.eval()
        encoded = [encoded_site(site, encoder, config, self.device)
                   for site in track(sites, 'encoding sites')]
        return lambda number: VerifierStep(self.task, draw_candidates(encoded, config, number))

    def one_step(self, gradient: CachedStep | VerifierStep) -> dict[str, float]:
        """Do the step that `gradient` is for; return its losses and the temperature."""
        for group in self.optimizer.param_groups:
            group['lr'] = group['peak_lr'] * schedule(self.step, self.config)
        if self.within and isinstance(gradient, CachedStep):
            gradient.restore(self.within)
            self.within = {}
        losses = gradient.run(self._between_chunks)
        nn.utils.clip_grad_norm_(
            [p for p in self.task.parameters() if p.grad is not None], self.config.clip_norm)
        self.optimizer.step()
        self.task.after_step(self.step)
        self.step += 1
        return {**losses, 'temperature': float(self.task.temperature().detach())}

    def save(self, gradient: CachedStep | None = None) -> None:
        """Write a checkpoint, amid a step if given; on the first process only."""
        if not self.world.writes:
            return
        part, within = (gradient.part, gradient.state()) if gradient is not None else (0, None)
        save_checkpoint(self.run, self.step, self.task, self.optimizer, {
            **self.facts(), 'steps': self.config.steps, 'evaluated': self.evaluated,
            'best': self.best, 'origin': self.origin}, within, part)
        self.saved = time.monotonic()

    def _time_to_save(self) -> bool:
        return time.monotonic() - self.saved > 60.0 * self.config.checkpoint_minutes

    def _between_chunks(self, gradient: CachedStep) -> None:
        self.tell(completed=self.step + gradient.part / (2 * len(gradient.chunks)))
        if self.world.size > 1 or len(gradient.chunks) == 1:
            return
        if self.interrupted:
            raise _Stopped(gradient)
        if self._time_to_save():
            self.save(gradient)

    def _ends(self) -> bool:
        """Return whether all steps are done or any process was interrupted."""
        caught = bool(self.interrupted)
        if self.world.size > 1:
            caught = bool(sum_over(torch.tensor(float(caught), device=self.device), self.world))
        return caught or self.step >= self.config.steps

    def _judge(
        self, held_out: list[PreparedSite], board: SummaryWriter | None,
        losses: dict[str, float],
    ) -> None:
        """Ask the held-out sites if it is time, and keep the model if it is the best so far."""
        due = self.step % self.config.evaluate_every == 0 or self.step >= self.config.steps
        if not due or self.evaluated == self.step or board is None:
            return
        metrics = evaluate(self.task.exported, held_out, self.config, self.device)
        for name, value in metrics.items():
            board.add_scalar(f'held_out/{name}', value, self.step)
        _log(self.run, {'step': self.step, **losses, **metrics})
        self.evaluated = self.step
        if metrics.get('recall@1', 0.0) >= self.best:
            self.best = metrics.get('recall@1', 0.0)
            save_model(self.task.exported, self.run / 'model', {
                'step': self.step,
                'temperature': round(float(self.task.temperature().detach()), 5),
                'held_out': {k: round(v, 4) for k, v in metrics.items()}, **self.origin})

    def _note(self, board: SummaryWriter | None, losses: dict[str, float]) -> None:
        if board is not None and (self.step % 20 == 0 or self.step == self.config.steps):
            for name, value in losses.items():
                board.add_scalar(f'train/{name}', value, self.step)

    @contextlib.contextmanager
    def _board(self) -> Iterator[SummaryWriter | None]:
        if not self.world.writes:
            yield None
            return
        purged = self.step + 1 if self.step else None
        with SummaryWriter(str(self.run / 'tensorboard'), purge_step=purged) as board:
            yield board

    def _bar(self) -> Progress:
        return bar(TextColumn('loss {task.fields[loss]:.3f}  {task.fields[rate]:.0f} pairs/s  '
                              'recall@1 {task.fields[recall]:.1%}')
                   ) if self.world.writes else Progress(disable=True)


class _Stopped(Exception):
    """Ctrl-C amid a step of many chunks."""

    def __init__(self, gradient: CachedStep) -> None:
        super().__init__()
        self.gradient = gradient


def _log(run: Path, metrics: dict[str, float]) -> None:
    with (run / 'metrics.jsonl').open('a', encoding='utf-8') as file:
        file.write(json.dumps({k: round(v, 5) for k, v in metrics.items()}) + '\n')
    if not console.is_terminal:
        console.print('  '.join(f'{k}={v:.4g}' for k, v in metrics.items()), soft_wrap=True)


def _forget_after(log: Path, step: int) -> None:
    """Drop the lines of a log beyond a step: they will be written again. A torn last line too."""
    if not log.is_file():
        return
    kept = []
    for line in log.read_text(encoding='utf-8').splitlines(keepends=True):
        with contextlib.suppress(ValueError):
            if json.loads(line)['step'] <= step:
                kept.append(line)
    with atomic_file(log) as temporary:
        temporary.write_text(''.join(kept), encoding='utf-8')


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
