"""The public files that training and evaluation use: their addresses, sizes and digests.

The files belong to their authors and are not part of this project. ``eg-grpo data fetch`` downloads
them. Every address names a commit, so that its content cannot change.
- training prompts and CoT instructions: EG-GRPO, the paper's code (Apache-2.0)
- ``t2i_compbench/``: validation prompts of T2I-CompBench (MIT); ``t2i_compbench_2023/``: the color
  list as it was before September 2025, with which published figures were measured
- ``geneval/``: the prompts of GenEval (MIT)
- ``wise_legacy/``: WISE in the version the paper used; ``wise_verified/``: its version of 2026;
  ``wise_judge/``: the programs whose texts ask a judge (their repository states no licence)
"""

from __future__ import annotations

from dataclasses import dataclass

_GITHUB = "https://raw.githubusercontent.com/"
_EG_GRPO = _GITHUB + "minebetter/EG-GRPO/b0bdd6506a85f81161f2032159577088838d0215/"
_COMPBENCH = (
    _GITHUB
    + "Karine-Huang/T2I-CompBench/1b7094991a57f3c22abdd4f6e8ba6c1a15517073/examples/dataset/"
)
_COMPBENCH_2023 = (
    _GITHUB
    + "Karine-Huang/T2I-CompBench/7710d059c3391fe97fbf9e2ad3813ed0e7d87979/examples/dataset/"
)
_GENEVAL = _GITHUB + "djghosh13/geneval/af4902f24d3ca90ebbb446dd9891a59e0f82725f/prompts/"
_WISE_ROOT = _GITHUB + "PKU-YuanGroup/WISE/eb51174483a5de2e34e8614cf9dfb3319ee7fcd0/"
_WISE = _WISE_ROOT + "WISE_legacy/data/"


@dataclass(frozen=True)
class PublicFile:
    """One public file, with the size and the digest that a download must have."""

    # Relative to the output folder of ``eg-grpo data fetch``.
    path: str
    url: str
    size: int  # bytes
    sha256: str


TRAINING = PublicFile(
    "geneval_and_t2i_data_final.json",
    _EG_GRPO + "data/geneval_and_t2i_data_final.json",
    1228443,
    "96b956b5c92477ea2ff13cdd0c805f762a9d9fd5af43141ada6850ab3f6a0171",
)
PUBLIC_FILES = (
    TRAINING,
    PublicFile(
        "prompt/reasoning_prompt.txt",
        _EG_GRPO + "data/prompt/reasoning_prompt.txt",
        626,
        "eec6a0becac441c44fa789a46472e74aff2954f001ad839e0c24c05d671b30b9",
    ),
    PublicFile(
        "prompt/wise.txt",
        _EG_GRPO + "data/prompt/wise.txt",
        2056,
        "48556b7a7026b86d70a5195daa53338c9dd142066875181581602b60ea0060a4",
    ),
    PublicFile(
        "t2i_compbench/3d_spatial_val.txt",
        _COMPBENCH + "3d_spatial_val.txt",
        7851,
        "c9953597315f36a5fcb41291bb19bdc6ab5f64a0fa760d691b4854a73f5d1fe9",
    ),
    PublicFile(
        "t2i_compbench/color_val.txt",
        _COMPBENCH + "color_val.txt",
        11871,
        "1634259756dbc77d13093d907d414480080ec9790a8c97ad09efaea7b2534f2d",
    ),
    PublicFile(
        "t2i_compbench/complex_val.txt",
        _COMPBENCH + "complex_val.txt",
        22724,
        "1b808018b8d9916db3d47d5aa2ef18377a3549a56901a474156f799824cdf3b4",
    ),
    PublicFile(
        "t2i_compbench/complex_val_action.txt",
        _COMPBENCH + "complex_val_action.txt",
        17698,
        "d49ee4c7f99e3f3379fb8704a54ff5288b83bb412971edf616a4721c2473308e",
    ),
    PublicFile(
        "t2i_compbench/complex_val_spatial.txt",
        _COMPBENCH + "complex_val_spatial.txt",
        2898,
        "6c7ac0ab75c7c9080cfc7b421fb059b9b0febb98471707aeedf58771088abc02",
    ),
    PublicFile(
        "t2i_compbench/complex_val_spatialaction.txt",
        _COMPBENCH + "complex_val_spatialaction.txt",
        2128,
        "e02ddc7fed812e6577e7386ec2137ce0a994a5ce19771661f68df7ac349a6ca9",
    ),
    PublicFile(
        "t2i_compbench/non_spatial_val.txt",
        _COMPBENCH + "non_spatial_val.txt",
        17750,
        "04c56cc9ac441dc9ea6c5157652058bd1635b5308526dd31bb29a1caab9a758d",
    ),
    PublicFile(
        "t2i_compbench/numeracy_val.txt",
        _COMPBENCH + "numeracy_val.txt",
        10863,
        "dad8df141604b70ba7554bec724e3db0a80023680769b5c514854ea2d2527bbe",
    ),
    PublicFile(
        "t2i_compbench/shape_val.txt",
        _COMPBENCH + "shape_val.txt",
        15935,
        "37e1a276906c7ea9516cbd7ac8501be896006c0c17ca7344f260562834455bae",
    ),
    PublicFile(
        "t2i_compbench/spatial_val.txt",
        _COMPBENCH + "spatial_val.txt",
        9213,
        "8707a1d7e42ce3002d95363cf55f74bd043c843ae27108f5125aaaa7840ca988",
    ),
    PublicFile(
        "t2i_compbench/texture_val.txt",
        _COMPBENCH + "texture_val.txt",
        14211,
        "fbb5363515b4a28009e360afaaaf389d2dd2289e50dbb0c6ef4ea0c7fe4f3d4f",
    ),
    PublicFile(
        "t2i_compbench_objects.txt",
        _COMPBENCH + "new_objects.txt",
        1568,
        "f39a3d2ff6067d7738673cbf465dc659ccc750776162989a5d9916f1d5f3e231",
    ),
    PublicFile(
        "wise_legacy/cultural_common_sense.json",
        _WISE + "cultural_common_sense.json",
        125062,
        "7a59216c768698280cea37caa574b52f3faf054d73b398b9bb6b3161baf8e3aa",
    ),
    PublicFile(
        "wise_legacy/natural_science.json",
        _WISE + "natural_science.json",
        117085,
        "b262fae58e413c7a4bd3c3d5a089f8c6529feac227e4b6606be261a949035544",
    ),
    PublicFile(
        "wise_legacy/spatio-temporal_reasoning.json",
        _WISE + "spatio-temporal_reasoning.json",
        100831,
        "e27d797885ad86e64d857d0cc93d33e04be572a8dcae95692a2c7e7876233f9a",
    ),
    PublicFile(
        "t2i_compbench_2023/color_val.txt",
        _COMPBENCH_2023 + "color_val.txt",
        11875,
        "1e37a12c1861bf6b11623eaffb0bf6d6eeea9702caf45b95d040f1721bba7f4f",
    ),
    PublicFile(
        "geneval/evaluation_metadata.jsonl",
        _GENEVAL + "evaluation_metadata.jsonl",
        85209,
        "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13",
    ),
    PublicFile(
        "wise_verified/cultural_common_sense_verified.json",
        _WISE_ROOT + "data_verified/cultural_common_sense_verified.json",
        119062,
        "23482925266e2784b2ba24b75239fdc6691bf85ae253d2c4aa38b71b45fefa89",
    ),
    PublicFile(
        "wise_verified/natural_science_verified.json",
        _WISE_ROOT + "data_verified/natural_science_verified.json",
        177868,
        "6f346c336f16f611e5c73e0fcacdccb336c200d534cf111526b22d50ea912555",
    ),
    PublicFile(
        "wise_verified/spatio-temporal_reasoning_verified.json",
        _WISE_ROOT + "data_verified/spatio-temporal_reasoning_verified.json",
        109695,
        "42c0b9d829365e392c2d4af283850dc76b1f922ab0c79198366de4f306eaf2b6",
    ),
    PublicFile(
        "wise_judge/gpt_eval.py",
        _WISE_ROOT + "WISE_legacy/gpt_eval.py",
        11685,
        "06fd6dcd7cf45a638fe8a3634b880d936077f161f3641002e58d7bf51daa2407",
    ),
    PublicFile(
        "wise_judge/vllm_eval.py",
        _WISE_ROOT + "vllm_eval.py",
        11713,
        "e6c51c2ae81e4eb0465755b248cbcefeef3fb8340e281bb3ac43ea9689e32192",
    ),
)
