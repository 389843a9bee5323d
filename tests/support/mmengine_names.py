"""The names of MMEngine that thirteen of OpenMMLab's libraries import, by module."""

NAMES = {
    "mmengine": (
        "Config ConfigDict DefaultScope DictAction FileClient MMLogger MODELS MessageHub ProgressBar "
        "Registry Timer __version__ build_from_cfg check_file_exist digit_version dump exists "
        "get_file_backend get_local_path is_abs is_filepath is_list_of is_seq_of is_str is_tuple_of "
        "join_path list_dir_or_file list_from_file load mkdir_or_exist print_log read_base scandir to_2tuple "
        "track_iter_progress track_parallel_progress track_progress"
    ),
    "mmengine.analysis": "FlopAnalyzer get_model_complexity_info parameter_count",
    "mmengine.analysis.print_helper": "_format_size",
    "mmengine.config": "Config ConfigDict DictAction read_base",
    "mmengine.config.utils": "MODULE2PACKAGE",
    "mmengine.dataset": (
        "BaseDataset COLLATE_FUNCTIONS ClassBalancedDataset Compose ConcatDataset DefaultSampler "
        "InfiniteSampler RepeatDataset default_collate force_full_init pseudo_collate"
    ),
    "mmengine.dataset.base_dataset": "BaseDataset Compose force_full_init",
    "mmengine.dataset.dataset_wrapper": "ConcatDataset RepeatDataset",
    "mmengine.dataset.sampler": "DefaultSampler InfiniteSampler",
    "mmengine.dataset.utils": "default_collate",
    "mmengine.device": (
        "get_device get_max_cuda_memory is_cuda_available is_mlu_available is_mps_available "
        "is_musa_available is_npu_available"
    ),
    "mmengine.dist": (
        "all_gather all_gather_object all_reduce all_reduce_dict all_reduce_params barrier broadcast "
        "broadcast_object_list cast_data_device collect_results get_dist_info get_rank get_world_size "
        "init_dist is_distributed is_main_process master_only sync_random_seed"
    ),
    "mmengine.dist.dist": "get_rank",
    "mmengine.dist.utils": "get_dist_info get_rank",
    "mmengine.evaluator": "BaseMetric DumpResults Evaluator",
    "mmengine.evaluator.evaluator": "Evaluator",
    "mmengine.evaluator.metric": "BaseMetric _to_cpu",
    "mmengine.fileio": (
        "BaseStorageBackend FileClient LocalBackend dump exists get get_file_backend get_local_path get_text "
        "isdir join_path list_dir_or_file list_from_file load put"
    ),
    "mmengine.fileio.backends": "BaseStorageBackend PetrelBackend",
    "mmengine.fileio.file_client": "FileClient HTTPBackend PetrelBackend",
    "mmengine.fileio.io": "isdir isfile join_path list_dir_or_file load",
    "mmengine.hooks": (
        "CheckpointHook DistSamplerSeedHook EMAHook Hook IterTimerHook LoggerHook ParamSchedulerHook "
        "RuntimeInfoHook SyncBuffersHook"
    ),
    "mmengine.hooks.checkpoint_hook": "CheckpointHook",
    "mmengine.hooks.iter_timer_hook": "IterTimerHook",
    "mmengine.hooks.logger_hook": "LoggerHook",
    "mmengine.hooks.param_scheduler_hook": "ParamSchedulerHook",
    "mmengine.hooks.sampler_seed_hook": "DistSamplerSeedHook",
    "mmengine.hub": "get_config get_model",
    "mmengine.infer": "BaseInferencer",
    "mmengine.infer.infer": "BaseInferencer ModelType",
    "mmengine.logging": "MMLogger MessageHub print_log",
    "mmengine.logging.logger": "MMLogger",
    "mmengine.model": (
        "BaseAveragedModel BaseDataPreprocessor BaseInit BaseModel BaseModule BaseTTAModel ConstantInit "
        "ExponentialMovingAverage ImgDataPreprocessor MMDistributedDataParallel "
        "MMSeparateDistributedDataParallel ModuleDict ModuleList PretrainedInit Sequential TruncNormalInit "
        "bias_init_with_prob caffe2_xavier_init constant_init is_model_wrapper kaiming_init merge_dict "
        "normal_init revert_sync_batchnorm stack_batch trunc_normal_init uniform_init update_init_info "
        "xavier_init"
    ),
    "mmengine.model.base_model": "BaseModel",
    "mmengine.model.base_model.data_preprocessor": "BaseDataPreprocessor",
    "mmengine.model.utils": "_BatchNormXd revert_sync_batchnorm stack_batch",
    "mmengine.model.weight_init": (
        "KaimingInit NormalInit bias_init_with_prob caffe2_xavier_init constant_init kaiming_init "
        "normal_init trunc_normal_ trunc_normal_init update_init_info xavier_init"
    ),
    "mmengine.model.wrappers": "is_model_wrapper",
    "mmengine.optim": (
        "AmpOptimWrapper ConstantLR CosineAnnealingLR DefaultOptimWrapperConstructor LinearLR MultiStepLR "
        "OPTIMIZERS OptimWrapper OptimWrapperDict StepLR _ParamScheduler build_optim_wrapper"
    ),
    "mmengine.optim.optimizer": "OptimWrapper OptimWrapperDict",
    "mmengine.optim.optimizer.amp_optimizer_wrapper": "AmpOptimWrapper",
    "mmengine.optim.optimizer.optimizer_wrapper": "OptimWrapper",
    "mmengine.optim.scheduler": (
        "ConstantParamScheduler CosineAnnealingLR CosineAnnealingParamScheduler PolyLR _ParamScheduler"
    ),
    "mmengine.optim.scheduler.lr_scheduler": "CosineAnnealingLR LRSchedulerMixin LinearLR MultiStepLR",
    "mmengine.optim.scheduler.momentum_scheduler": "CosineAnnealingMomentum MomentumSchedulerMixin",
    "mmengine.optim.scheduler.param_scheduler": "INF _ParamScheduler",
    "mmengine.registry": (
        "DATASETS DATA_SAMPLERS DefaultScope EVALUATOR FUNCTIONS HOOKS INFERENCERS LOG_PROCESSORS LOOPS "
        "METRICS MODELS MODEL_WRAPPERS OPTIMIZERS OPTIM_WRAPPERS OPTIM_WRAPPER_CONSTRUCTORS PARAM_SCHEDULERS "
        "RUNNERS RUNNER_CONSTRUCTORS Registry TASK_UTILS TRANSFORMS VISBACKENDS VISUALIZERS "
        "WEIGHT_INITIALIZERS build_from_cfg init_default_scope"
    ),
    "mmengine.runner": (
        "CheckpointLoader EpochBasedTrainLoop IterBasedTrainLoop LogProcessor Runner TestLoop ValLoop "
        "autocast find_latest_checkpoint get_state_dict load_checkpoint load_state_dict save_checkpoint "
        "set_random_seed"
    ),
    "mmengine.runner.amp": "autocast",
    "mmengine.runner.base_loop": "BaseLoop",
    "mmengine.runner.checkpoint": (
        "CheckpointLoader _load_checkpoint _load_checkpoint_to_model _load_checkpoint_with_prefix "
        "load_checkpoint load_state_dict"
    ),
    "mmengine.runner.log_processor": "LogProcessor",
    "mmengine.runner.loops": "EpochBasedTrainLoop IterBasedTrainLoop TestLoop ValLoop _InfiniteDataloaderIterator",
    "mmengine.structures": "BaseDataElement InstanceData LabelData PixelData",
    "mmengine.testing": "assert_allclose assert_dict_has_keys assert_params_all_zeros",
    "mmengine.utils": (
        "ProgressBar Timer check_file_exist deprecated_api_warning digit_version get_git_hash "
        "get_installed_path import_modules_from_strings is_abs is_filepath is_installed is_list_of "
        "is_method_overridden is_seq_of is_str is_tuple_of mkdir_or_exist requires_executable scandir "
        "slice_list to_2tuple to_3tuple track_iter_progress track_parallel_progress track_progress"
    ),
    "mmengine.utils.dl_utils": "TORCH_VERSION collect_env is_norm mmcv_full_available set_multi_processing",
    "mmengine.utils.dl_utils.parrots_wrapper": (
        "SyncBatchNorm SyncBatchNorm_ TORCH_VERSION _BatchNorm _ConvNd _InstanceNorm is_rocm_pytorch"
    ),
    "mmengine.utils.path": "mkdir_or_exist",
    "mmengine.utils.progressbar": "ProgressBar init_pool",
    "mmengine.utils.version_utils": "digit_version",
    "mmengine.visualization": "BaseVisBackend LocalVisBackend TensorboardVisBackend Visualizer WandbVisBackend",
    "mmengine.visualization.utils": (
        "check_type check_type_and_length color_val_matplotlib convert_overlay_heatmap img_from_canvas "
        "tensor2ndarray value2list"
    ),
    "mmengine.visualization.vis_backend": "LocalVisBackend force_init_env",
}
