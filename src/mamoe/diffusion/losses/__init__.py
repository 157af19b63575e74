"""What a training minimises: one loss per file, all functions of a :class:`Denoised` batch."""

from .denoised import Denoised as Denoised
from .denoised import LatentLoss as LatentLoss
from .masked import inverse_frequency_weights as inverse_frequency_weights
from .masked import masked_mse as masked_mse
from .mse import min_snr_weight as min_snr_weight
from .mse import mse as mse
from .mse import mse_per_image as mse_per_image
