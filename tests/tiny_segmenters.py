"""Segmentation networks of transformers as small as they can be, with random weights and the shapes of real ones."""

import json

import torch
from transformers import (
    EomtConfig,
    EomtForUniversalSegmentation,
    EomtImageProcessor,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    OneFormerConfig,
    OneFormerForUniversalSegmentation,
    OneFormerImageProcessor,
    OneFormerProcessor,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SwinConfig,
)

from mamoe.bases.tiny import new_tokenizer

LABELS = {0: "road, route", 1: "car, auto", 2: "chandelier", 3: "persons"}
SIDE = 64
NAMED = {"id2label": LABELS, "num_labels": len(LABELS)}
SQUARE = {"height": SIDE, "width": SIDE}
QUERIES = {
    "hidden_dim": 32,
    "encoder_feedforward_dim": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "dim_feedforward": 16,
    "num_queries": 8,
}


def segformer(folder):
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        **NAMED,
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(size=SQUARE).save_pretrained(folder)


SWIN = SwinConfig(
    image_size=SIDE,
    embed_dim=8,
    depths=[1, 1, 1, 1],
    num_heads=[1, 1, 1, 1],
    window_size=2,
    out_features=["stage1", "stage2", "stage3", "stage4"],
)


def mask2former(folder):
    config = Mask2FormerConfig(
        backbone_config=SWIN,
        feature_size=32,
        mask_feature_size=32,
        **QUERIES,
        **NAMED,
    )
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    Mask2FormerImageProcessor(size=SQUARE).save_pretrained(folder)


def oneformer(folder):
    config = OneFormerConfig(
        backbone_config=SWIN,
        conv_dim=32,
        mask_dim=32,
        **QUERIES,
        text_encoder_width=32,
        text_encoder_num_layers=1,
        text_encoder_context_length=77,
        task_seq_len=77,
        is_training=False,
        **NAMED,
    )
    OneFormerForUniversalSegmentation(config).save_pretrained(folder)
    info = {str(i): {"name": name, "isthing": int(name in ("car, auto", "persons"))} for i, name in LABELS.items()}
    (folder / "classes.json").write_text(json.dumps(info))
    pictures = OneFormerImageProcessor(repo_path=str(folder), class_info_file="classes.json", num_text=4, size=SQUARE)
    OneFormerProcessor(pictures, new_tokenizer(["the task is panoptic"])).save_pretrained(folder)


def eomt(folder):
    config = EomtConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_blocks=1,
        image_size=SIDE,
        patch_size=16,
        num_queries=8,
        num_register_tokens=1,
        num_upscale_blocks=1,
        mlp_ratio=2,
        **NAMED,
    )
    EomtForUniversalSegmentation(config).save_pretrained(folder)
    size = {"shortest_edge": SIDE, "longest_edge": SIDE}
    EomtImageProcessor(size=size, do_pad=True).save_pretrained(folder)


FAMILIES = (segformer, mask2former, oneformer, eomt)


def tiny_segmenter(make, folder, seed=1):
    """Write one of the families."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        make(folder)
    return folder
