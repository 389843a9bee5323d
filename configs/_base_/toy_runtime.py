# Runtime settings for experiments of a few seconds on points in the plane.
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=5)
val_cfg = dict()
test_cfg = dict()

val_evaluator = dict(type="Accuracy")
test_evaluator = val_evaluator

default_hooks = dict(
    checkpoint=dict(interval=5, max_keep_ckpts=1, save_best="auto"),
    final_test=dict(type="FinalTestHook"),
)
custom_hooks = [dict(type="DecisionBoundaryHook")]
randomness = dict(seed=0)
