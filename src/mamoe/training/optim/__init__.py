"""Optimizers and learning-rate schedules from plain settings."""

from .adam import make_adam as make_adam
from .adam import make_adam8bit as make_adam8bit
from .adam import make_schedule_free as make_schedule_free
from .groups import Part as Part
from .groups import apply_lr_factors as apply_lr_factors
from .groups import check_installed as check_installed
from .groups import parameter_groups as parameter_groups
from .muon import make_muon as make_muon
from .schedules import constant_with_warmup as constant_with_warmup
from .schedules import cosine_with_warmup as cosine_with_warmup
from .schedules import linear_with_warmup as linear_with_warmup
