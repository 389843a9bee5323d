#!/usr/bin/env bash
# Usage: environment.sh LIBRARY...
# Installs OpenMMLab's libraries into the current Python environment, beside Trainwright: mmpretrain mmdet mmseg mmpose
# mmaction mmocr mmagic mmyolo mmdet3d mmrazor. Without their dependencies on mmengine, mmcv and old versions of others.
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,4s/^# //p' "${BASH_SOURCE[0]}"; exit 2; }

wheels=(mmcv-lite==2.2.0)
needed=(addict opencv-python-headless matplotlib packaging pillow pyyaml scipy six)
for library in "$@"; do
    case $library in
        mmpretrain) wheels+=(mmpretrain==1.2.0) needed+=(einops 'importlib-metadata<8' mat4py model-index) ;;
        mmdet) wheels+=(mmdet==3.3.0) needed+=(pycocotools shapely terminaltables tqdm) ;;
        mmseg) wheels+=(mmsegmentation==1.2.2) needed+=(prettytable ftfy regex) ;;
        mmpose) wheels+=(mmpose==1.3.2) needed+=(json_tricks munkres pycocotools) ;;
        mmaction) wheels+=(mmaction2==1.2.0) needed+=(einops) ;;
        mmocr) wheels+=(mmocr==1.0.1 mmdet==3.3.0) needed+=(imgaug lmdb pyclipper rapidfuzz scikit-image shapely pycocotools terminaltables) ;;
        mmagic) wheels+=(mmagic==1.2.0 face-alignment==1.3.4 facexlib==0.3.0) needed+=(einops lpips av tqdm diffusers==0.24.0 transformers==4.46.3 huggingface_hub==0.25.2 filterpy lmdb numba resize-right scikit-image) ;;
        mmyolo) wheels+=(mmyolo==0.6.0 mmdet==3.3.0) needed+=(pycocotools prettytable shapely terminaltables) ;;
        mmdet3d) wheels+=(mmdet3d==1.4.0 mmdet==3.3.0 lyft_dataset_sdk==0.0.8 nuscenes-devkit==1.2.0) needed+=(cachetools descartes numba pyquaternion scikit-learn pycocotools pandas plyfile scikit-image shapely terminaltables trimesh) ;;
        mmrazor) wheels+=(mmrazor==1.0.0 mmcls==1.0.0rc6 mmpretrain==1.2.0 mmdet==3.3.0) needed+=(einops 'importlib-metadata<8' mat4py model-index joblib cloudpickle ordered-set pycocotools rich shapely terminaltables) ;;
        *) echo "unknown library $library" >&2; exit 2 ;;
    esac
done
python -m pip install --quiet --disable-pip-version-check "${needed[@]}"
python -m pip install --quiet --disable-pip-version-check --no-deps "${wheels[@]}"
