"""What a training minimises: one loss per file, all functions of a :class:`Denoised` batch."""

from .decoded import OnLatents as OnLatents
from .decoded import OnPictures as OnPictures
from .denoised import Denoised as Denoised
from .denoised import LatentLoss as LatentLoss
from .latent_lpips import load_latent_lpips as load_latent_lpips
from .lpips import Lpips as Lpips
from .lpips import LpipsNet as LpipsNet
from .lpips import load_lpips as load_lpips
from .masked import inverse_frequency_weights as inverse_frequency_weights
from .masked import masked_mse as masked_mse
from .mse import mse as mse
from .mse import mse_per_image as mse_per_image
from .perceptual import Perceptual as Perceptual
from .perceptual import middle_features as middle_features
from .snr import MinSnr as MinSnr
