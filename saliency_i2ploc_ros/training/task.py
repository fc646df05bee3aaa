"""All that a run trains: the dual encoder, and what is dropped when it is saved."""

from __future__ import annotations

from torch import nn, Tensor

from ..encoders.dual import DualEncoder, Encoded
from ..errors import InputError
from .batches import Batch, normalise
from .config import TrainingConfig
from .ema import follow
from .geometry import GeometryHeads
from .losses import Temperature
from .objectives import Losses, OBJECTIVES, relation_losses
from .optimizer import freeze


class TrainingTask(nn.Module):
    """
    The dual encoder, its moving average, the temperature, the objective and its heads.

    What the recipe freezes asks for no gradient. The losses are those of the contract in
    `objectives`: `contrast` on all descriptors of a batch, `local` on one chunk of it.
    """

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.config = config
        model = config.model
        self.encoder = DualEncoder(model)
        self.temperature = Temperature(
            config.temperature, config.min_temperature, config.max_temperature)
        self.objective = OBJECTIVES[config.objective](config)
        self.geometry: GeometryHeads | None = None
        if config.supervision:
            self.geometry = GeometryHeads(model, config.supervision)
        freeze(self.encoder.image.encoder, config.trained_image_blocks, 'image')
        freeze(self.encoder.cloud.encoder, config.trained_cloud_blocks, 'cloud')
        self._choose_what_learns()
        self.average: DualEncoder | None = None
        if config.ema_decay:
            self.average = DualEncoder(model).requires_grad_(False)
            self.average.load_state_dict(self.encoder.state_dict())

    def _choose_what_learns(self) -> None:
        encoder, alone = self.encoder, self.config.trains == 'verifier'
        if alone and encoder.verifier is None:
            raise InputError('the recipe trains a verifier and the model has none: give it one '
                             "(--set model.verifier={}), or set trains to 'encoders'")
        if not alone and encoder.verifier is not None:
            raise InputError('a verifier is trained after the encoders, which are then left as '
                             "they are: set trains to 'verifier', or model.verifier to null")
        if alone:
            self.requires_grad_(False)
            for part in (encoder.verifier, encoder.image.detail, encoder.cloud.detail):
                assert part is not None  # all three come together
                part.requires_grad_(True)

    @property
    def exported(self) -> DualEncoder:
        """Return the encoder that is judged and saved: the moving average where there is one."""
        return self.average if self.average is not None else self.encoder

    def encode(self, batch: Batch) -> tuple[Encoded, Encoded]:
        """Return the encoded images and submaps of a batch."""
        images = normalise(batch.images, self.config.model.image)
        return self.encoder.encode_image(images), self.encoder.encode_cloud(*batch.clouds)

    def contrast(
        self, image_descriptors: Tensor, cloud_descriptors: Tensor, image_features: Tensor,
        cloud_features: Tensor, batch: Batch, progress: float,
    ) -> Losses:
        """Return the losses of a whole batch, by name; see `Objective.contrast`."""
        vectors = (image_descriptors, cloud_descriptors, image_features, cloud_features)
        return {
            **self.objective.contrast(*vectors, batch, self.temperature(), progress),
            **relation_losses(self.config, *vectors),
        }

    def local(self, image: Encoded, cloud: Encoded, batch: Batch, progress: float) -> Losses:
        """Return the losses of one chunk, by name, each a mean over its pairs."""
        losses = self.objective.local(image, cloud, batch, progress)
        if self.geometry is not None:
            losses |= {name: self.config.geometry_weight * value
                       for name, value in self.geometry(image, cloud, batch).items()}
        return losses

    def after_step(self, step: int) -> None:
        """Do what follows the optimiser's step of this number: bounds, the moving average."""
        self.temperature.clamp()
        if self.average is not None:
            follow(self.average, self.encoder, self.config.ema_decay, step)
