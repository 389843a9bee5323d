"""The compiled operators of mmcv, on torchvision and plain PyTorch: what ``mmcv._ext`` resolves to.

Functions have the names, arguments and conventions of mmcv 2.2, as ``mmcv.ops`` calls them: most write into tensors
that are passed for their results.
"""

# ruff: noqa: F401  # the names are what mmcv looks up here

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from trainwright.compat.mmcv_ops.attention import (
    ms_deform_attn_backward,
    ms_deform_attn_forward,
    psamask_backward,
    psamask_forward,
)
from trainwright.compat.mmcv_ops.boxes3d import (
    diff_iou_rotated_sort_vertices_forward,
    iou3d_boxes_overlap_bev_forward,
    iou3d_nms3d_forward,
    iou3d_nms3d_normal_forward,
    points_in_boxes_all_forward,
    points_in_boxes_cpu_forward,
    points_in_boxes_part_forward,
    roiaware_pool3d_backward,
    roiaware_pool3d_forward,
    roipoint_pool3d_forward,
)
from trainwright.compat.mmcv_ops.deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from trainwright.compat.mmcv_ops.grouping import (
    assign_score_withk_backward,
    assign_score_withk_forward,
    gather_points_backward,
    gather_points_forward,
    group_points_backward,
    group_points_forward,
    stack_group_points_backward,
    stack_group_points_forward,
    three_interpolate_backward,
    three_interpolate_forward,
)
from trainwright.compat.mmcv_ops.losses import (
    chamfer_distance_backward,
    chamfer_distance_forward,
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from trainwright.compat.mmcv_ops.neighbors import (
    ball_query_forward,
    furthest_point_sampling_forward,
    furthest_point_sampling_with_dist_forward,
    knn_forward,
    stack_ball_query_forward,
    three_nn_forward,
)
from trainwright.compat.mmcv_ops.nms import (
    bbox_overlaps,
    box_iou_quadri,
    box_iou_rotated,
    convex_giou,
    convex_iou,
    min_area_polygons,
    nms,
    nms_match,
    nms_quadri,
    nms_rotated,
    points_in_polygons_forward,
    softnms,
)
from trainwright.compat.mmcv_ops.reassembly import (
    active_rotated_filter_backward,
    active_rotated_filter_forward,
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
    correlation_backward,
    correlation_forward,
    masked_col2im_forward,
    masked_im2col_forward,
    tin_shift_backward,
    tin_shift_forward,
)
from trainwright.compat.mmcv_ops.regions import (
    bezier_align_backward,
    bezier_align_forward,
    border_align_backward,
    border_align_forward,
    deform_roi_pool_backward,
    deform_roi_pool_forward,
    prroi_pool_backward,
    prroi_pool_coor_backward,
    prroi_pool_forward,
    riroi_align_rotated_backward,
    riroi_align_rotated_forward,
    roi_align_backward,
    roi_align_forward,
    roi_align_rotated_backward,
    roi_align_rotated_forward,
    roi_pool_backward,
    roi_pool_forward,
    rotated_feature_align_backward,
    rotated_feature_align_forward,
)
from trainwright.compat.mmcv_ops.stylegan import (
    bias_act,
    filtered_lrelu,
    filtered_lrelu_act_,
    fused_bias_leakyrelu,
    upfirdn2d,
)
from trainwright.compat.mmcv_ops.sync_bn import (
    sync_bn_backward_data,
    sync_bn_backward_param,
    sync_bn_forward_mean,
    sync_bn_forward_output,
    sync_bn_forward_var,
)
from trainwright.compat.mmcv_ops.text import contour_expand, pixel_group
from trainwright.compat.mmcv_ops.voxels import (
    dynamic_point_to_voxel_backward,
    dynamic_point_to_voxel_forward,
    dynamic_voxelize_forward,
    hard_voxelize_forward,
)

_SPARSE = frozenset(
    f"{name}_{direction}"
    for name in ("get_indice_pairs_2d", "get_indice_pairs_3d", "indice_conv", "indice_maxpool")
    for direction in ("forward", "backward")
) | {"get_indice_pairs_4d_forward", "fused_indice_conv_forward"}


def get_compiler_version() -> str:
    """Return what stands in for the compiler of the operators."""
    return "none (operators of Trainwright)"


def get_compiling_cuda_version() -> str:
    """Return the version of CUDA that PyTorch was built with."""
    return torch.version.cuda or "not available"


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Return a function that refuses, for the operators of mmcv that are not here."""
    if name not in _SPARSE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f"mmcv's operator {name} is not available without its compiled extension. "
            "Use the sparse convolutions of the library spconv (pip install spconv-cu126, or for your version of CUDA)"
        )

    return refuse
