"""What each ATen operation is to the emulated machine: the one table that decides what is rounded, split, opened or refused."""

from __future__ import annotations

from enum import Enum

import torch
from torch._ops import OpOverload


class Kind(Enum):
    """How the machine runs an operation."""

    GEMM = "gemm"
    CONVOLUTION = "convolution"
    CONVOLUTION_BACKWARD = "convolution_backward"
    VECTOR = "vector"
    MOVE = "move"
    CONSTANT = "constant"
    RANDOM = "random"
    WIRE = "wire"
    COMPOSITE = "composite"
    HIDDEN = "hidden"
    UNKNOWN = "unknown"


GEMM_OPERANDS = {
    "mm": (0, 1),
    "bmm": (0, 1),
    "mv": (0, 1),
    "dot": (0, 1),
    "vdot": (0, 1),
    "addmm": (1, 2),
    "baddbmm": (1, 2),
    "addmv": (1, 2),
}
"""Where the two operands of a GEMM stand among its arguments; an addend stands at 0."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MOVES = _names(
    """
    _adjoint _conj _copy_from _fw_primal _lazy_clone _neg_view _pack_padded_sequence _pad_packed_sequence _reshape_alias
    _reshape_copy _to_copy _unsafe_index _unsafe_masked_index _unsafe_view adaptive_max_pool2d adaptive_max_pool3d alias
    alias_copy amax amin aminmax as_strided as_strided_copy as_strided_scatter cat channel_shuffle clone col_indices complex
    conj_physical constant_pad_nd contiguous copy cummax cummin data detach detach_copy diag_embed diagonal
    diagonal_backward diagonal_copy diagonal_scatter embedding expand expand_copy flip histc fractional_max_pool2d
    fractional_max_pool3d gather im2col index index_copy index_fill index_select kthvalue lift lift_fresh lift_fresh_copy
    masked_fill masked_scatter masked_select max max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d
    median min mode movedim nanmedian narrow narrow_copy permute permute_copy pixel_shuffle pixel_unshuffle put
    reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d
    replication_pad3d reshape resize resize_as resolve_conj resolve_neg roll rot90 scatter select select_backward
    select_copy select_scatter set shallow_copy_data slice slice_backward slice_copy slice_inverse slice_scatter sort split
    split_copy split_with_sizes split_with_sizes_copy squeeze squeeze_copy stack _stack t t_copy take topk transpose
    transpose_copy tril triu unbind unbind_copy unfold unfold_copy unsafe_chunk unsafe_split unsafe_split_with_sizes
    unsqueeze unsqueeze_copy upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d view view_as_complex view_as_complex_copy view_as_real
    view_as_real_copy view_copy where _local_scalar_dense _pin_memory _resize_output record_stream is_same_size
    """
)
"""Values pass unchanged or are counted: views, copies, selections, masks, histograms."""

ACTIVATIONS = _names("embedding _embedding_bag _embedding_bag_forward_only")
"""Selections of a weight that are activations, not weights."""

CONSTANTS = _names(
    """
    _efficientzerotensor arange empty empty_like empty_permuted empty_strided eye fill full full_like linspace logspace
    new_empty new_empty_strided new_full new_ones new_zeros ones ones_like range scalar_tensor zero zeros zeros_like
    """
)
"""Values that the program sets, whatever tensor gave the shape."""

RANDOM = _names(
    """
    bernoulli cauchy exponential geometric log_normal multinomial normal normal_functional poisson rand rand_like randint
    randint_like randn randn_like random randperm uniform _fill_mem_eff_dropout_mask
    """
)
"""Random numbers as the host draws them: initial values and noise, rounded when something computes with them."""

VECTOR = _names(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool2d_backward _adaptive_avg_pool3d _adaptive_avg_pool3d_backward _add_relu
    _amp_foreach_non_finite_check_and_unscale _amp_update_scale _batch_norm_no_update _batch_norm_with_update
    _compute_linear_combination _ctc_loss _ctc_loss_backward _embedding_bag _embedding_bag_backward
    _embedding_bag_dense_backward _embedding_bag_forward_only _embedding_bag_per_sample_weights_backward
    _fake_quantize_learnable_per_channel_affine _fake_quantize_learnable_per_channel_affine_backward
    _fake_quantize_learnable_per_tensor_affine _fake_quantize_learnable_per_tensor_affine_backward
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams _fused_dropout _fused_rms_norm _fused_rms_norm_backward
    _index_put_impl _log_softmax _log_softmax_backward_data _logcumsumexp _masked_scale _masked_softmax
    _masked_softmax_backward _native_batch_norm_legit _native_batch_norm_legit_functional
    _native_batch_norm_legit_no_training _pack_padded_sequence_backward _pdist_backward _pdist_forward _prelu_kernel
    _prelu_kernel_backward _safe_softmax _segment_reduce_backward _softmax _softmax_backward_data _thnn_fused_gru_cell
    _thnn_fused_gru_cell_backward _thnn_fused_lstm_cell _thnn_fused_lstm_cell_backward_impl _unsafe_index_put
    _unsafe_masked_index_put_accumulate _upsample_bicubic2d_aa _upsample_bicubic2d_aa_backward _upsample_bilinear2d_aa
    _upsample_bilinear2d_aa_backward _upsample_nearest_exact1d_backward _upsample_nearest_exact2d_backward
    _upsample_nearest_exact3d_backward _weight_norm_interface _weight_norm_interface_backward abs acos acosh
    adaptive_avg_pool1d adaptive_max_pool2d_backward adaptive_max_pool3d_backward add addcdiv addcmul addr angle asin asinh
    atan atan2 atanh avg_pool1d avg_pool2d avg_pool2d_backward avg_pool3d avg_pool3d_backward batch_norm_backward
    batch_norm_backward_elemt batch_norm_backward_reduce batch_norm_elemt batch_norm_gather_stats
    batch_norm_gather_stats_with_counts batch_norm_stats batch_norm_update_stats binary_cross_entropy
    binary_cross_entropy_backward binary_cross_entropy_with_logits ceil celu clamp clamp_max clamp_min col2im copysign cos
    cosh cudnn_batch_norm cudnn_batch_norm_backward cudnn_grid_sampler cudnn_grid_sampler_backward cumprod cumsum deg2rad
    digamma dist div elu elu_backward embedding_dense_backward embedding_renorm erf erfc erfinv exp exp2 expm1
    fake_quantize_per_channel_affine_cachemask fake_quantize_per_tensor_affine_cachemask floor floor_divide fmax fmin fmod
    frac fractional_max_pool2d_backward fractional_max_pool3d_backward frexp gelu gelu_backward ger glu glu_backward
    grid_sampler_2d grid_sampler_2d_backward grid_sampler_3d grid_sampler_3d_backward hardshrink hardshrink_backward
    hardsigmoid hardsigmoid_backward hardswish hardswish_backward hardtanh hardtanh_backward heaviside huber_loss
    huber_loss_backward hypot i0 igamma igammac index_add index_put index_reduce ldexp leaky_relu leaky_relu_backward lerp
    lgamma linalg_cross linalg__powsum linalg_vector_norm log log10 log1p log2 log_sigmoid_backward log_sigmoid_forward
    log_softmax logaddexp logaddexp2 logcumsumexp logit logit_backward logsumexp masked_scatter_backward max_pool2d_backward
    max_pool2d_with_indices_backward max_pool3d_with_indices_backward maximum mean minimum miopen_batch_norm
    miopen_batch_norm_backward mish mish_backward mse_loss mse_loss_backward mul multi_margin_loss
    multi_margin_loss_backward multilabel_margin_loss_backward multilabel_margin_loss_forward mvlgamma nan_to_num nansum
    native_batch_norm native_batch_norm_backward native_dropout native_dropout_backward native_group_norm
    native_group_norm_backward native_layer_norm native_layer_norm_backward native_norm neg nextafter nll_loss2d_backward
    nll_loss2d_forward nll_loss_backward nll_loss_forward norm outer polar polygamma pow powsum prod rad2deg reciprocal
    reflection_pad1d_backward reflection_pad2d_backward reflection_pad3d_backward relu remainder renorm
    replication_pad1d_backward replication_pad2d_backward replication_pad3d_backward round rrelu_with_noise
    rrelu_with_noise_backward rrelu_with_noise_functional rsqrt rsub scatter_add scatter_reduce segment_reduce sgn sigmoid
    sigmoid_backward sign silu silu_backward sin sinc sinh smooth_l1_loss smooth_l1_loss_backward soft_margin_loss
    soft_margin_loss_backward softmax softplus softplus_backward softshrink softshrink_backward special_entr special_erfcx
    special_i0e special_i1 special_i1e special_log_ndtr special_ndtri special_xlog1py special_zeta sqrt std std_mean sub sum
    tan tanh tanh_backward threshold threshold_backward trace trunc unfold_backward upsample_bicubic2d
    upsample_bicubic2d_backward upsample_bilinear2d upsample_bilinear2d_backward upsample_linear1d
    upsample_linear1d_backward upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward
    upsample_trilinear3d upsample_trilinear3d_backward var var_mean xlogy _fused_adagrad _fused_adam _fused_adamw _fused_sgd
    """
)
"""Arithmetic of the vector unit: every floating-point result is rounded."""

LOSSES = _names("mse_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits soft_margin_loss")
"""Losses that are one number an element, and then their sum or mean."""

SUMMING = _names(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _batch_norm_no_update _batch_norm_with_update _ctc_loss _embedding_bag
    _embedding_bag_dense_backward _embedding_bag_forward_only _logcumsumexp _masked_softmax _masked_softmax_backward
    _native_batch_norm_legit _native_batch_norm_legit_functional _native_batch_norm_legit_no_training _pdist_forward
    adaptive_avg_pool1d avg_pool1d avg_pool2d avg_pool3d batch_norm_backward col2im cudnn_batch_norm cudnn_batch_norm_backward
    cumprod cumsum dist embedding_dense_backward index_add index_put linalg_vector_norm logcumsumexp logsumexp
    miopen_batch_norm miopen_batch_norm_backward multi_margin_loss multilabel_margin_loss_forward nansum norm
    prod renorm scatter_add scatter_reduce segment_reduce std std_mean trace var var_mean
    """
)
"""Arithmetic that sums inside by torch's own kernel, which the vector unit's steps do not reach."""

HIDDEN = _names(
    """
    _addmm_activation _cdist_backward _cdist_forward _cholesky_solve_helper _cslt_sparse_mm _cudnn_attention_backward
    _cudnn_attention_forward _cudnn_rnn _cudnn_rnn_backward _dyn_quant_matmul_4bit _efficient_attention_backward
    _efficient_attention_forward _euclidean_dist _fft_c2c _fft_c2r _fft_r2c _flash_attention_backward
    _flash_attention_forward _grouped_mm _int_mm _linalg_det _linalg_eigh _linalg_eigvals _linalg_slogdet _linalg_solve_ex
    _linalg_svd _lstm_mps _native_multi_head_attention _scaled_dot_product_cudnn_attention
    _scaled_dot_product_cudnn_attention_backward _scaled_dot_product_efficient_attention
    _scaled_dot_product_efficient_attention_backward _scaled_dot_product_flash_attention
    _scaled_dot_product_flash_attention_backward _scaled_dot_product_flash_attention_for_cpu
    _scaled_dot_product_flash_attention_for_cpu_backward _scaled_dot_product_fused_attention_overrideable
    _scaled_dot_product_fused_attention_overrideable_backward _scaled_grouped_mm _scaled_grouped_mm_v2 _scaled_mm
    _scaled_mm_v2 _slow_conv2d_backward _slow_conv2d_forward _sparse_addmm _sparse_mm_reduce_impl _sparse_sparse_matmul
    _transform_bias_rescale_qkv _transformer_encoder_layer_fwd _trilinear _triton_multi_head_attention
    _triton_scaled_dot_attention _weight_int4pack_mm _weight_int4pack_mm_for_cpu _weight_int8pack_mm addbmm cholesky_inverse
    cholesky_solve conv_depthwise3d _conv_depthwise2d conv_tbc cudnn_convolution cudnn_convolution_add_relu
    cudnn_convolution_relu cudnn_convolution_transpose geqrf hspmm linalg_cholesky_ex linalg_eig linalg_householder_product
    linalg_inv_ex linalg_ldl_factor_ex linalg_ldl_solve linalg_lstsq linalg_lu linalg_lu_factor_ex linalg_lu_solve
    linalg_matrix_exp linalg_pinv linalg_qr linalg_solve_triangular linear_backward lstm_mps_backward matmul_backward
    miopen_convolution miopen_convolution_add_relu miopen_convolution_relu miopen_convolution_transpose
    miopen_depthwise_convolution miopen_rnn miopen_rnn_backward mkldnn_convolution mkldnn_linear mkldnn_linear_backward
    mkldnn_rnn_layer mkldnn_rnn_layer_backward ormqr quantized_gru quantized_lstm slow_conv3d_forward slow_conv_dilated2d
    slow_conv_dilated3d slow_conv_transpose2d slow_conv_transpose3d sparse_sampled_addmm sspaddmm triangular_solve
    """
)
"""Contractions inside operations that cannot be opened."""

WIRE_NAMESPACES = frozenset({"c10d", "_c10d_functional", "c10d_functional"})

UNDECLARED_WRITES = {"native_batch_norm": (3, 4), "cudnn_batch_norm": (3, 4), "miopen_batch_norm": (3, 4)}
"""Arguments that an operation writes although its schema does not say so: the running statistics."""


def base_name(func: OpOverload) -> str:
    """The name of an operation in the tables."""
    return plain_name(str(func._overloadpacket.__name__))


def plain_name(label: str) -> str:
    """Torch's name without `_foreach_` and without the underscore of an in-place form."""
    name = label.removeprefix("_foreach_")
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def kind_of(func: OpOverload) -> Kind:
    """The kind of an operation; one that no table names but that torch composes of others is COMPOSITE.

    A cast that the program itself does by hwsim.quantize has the values that the program asked for.
    """
    if func.namespace in WIRE_NAMESPACES:
        return Kind.WIRE
    if func.namespace == "hwsim" and func._overloadpacket.__name__ == "quantize":
        return Kind.MOVE
    if func.namespace != "aten":
        return Kind.COMPOSITE if _is_composite(func) else Kind.UNKNOWN
    name = base_name(func)
    if name in GEMM_OPERANDS:
        return Kind.GEMM
    if name == "convolution":
        return Kind.CONVOLUTION
    if name == "convolution_backward":
        return Kind.CONVOLUTION_BACKWARD
    tables = ((VECTOR, Kind.VECTOR), (MOVES, Kind.MOVE), (CONSTANTS, Kind.CONSTANT), (RANDOM, Kind.RANDOM), (HIDDEN, Kind.HIDDEN))
    for table, kind in tables:
        if name in table:
            return kind
    return Kind.COMPOSITE if _is_composite(func) else Kind.UNKNOWN


def _is_composite(func: OpOverload) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(str(func._name), "CompositeImplicitAutograd")
