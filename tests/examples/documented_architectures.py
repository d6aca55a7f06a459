"""The table "Hypernet architectures that adhere the compression ratio", as the document states it."""

from dataclasses import dataclass

COMMANDS = tuple(
    command.replace("\\\n", "")
    for command in r"""
train_resnet_ssge.py --num_tasks=6 --num_classes_per_task=10 --net_type=resnet \
--resnet_block_depth=5 --resnet_channel_sizes="16,16,32,64" --imp_hnet_type=chunked_hmlp \
--latent_dim=32 --imp_chunk_emb_size=32 --hh_hnet_type=chunked_hmlp --hh_cond_emb_size=32 \
--hh_chunk_emb_size=32 --hh_hmlp_arch='' --hh_chmlp_chunk_size=7000 \
--imp_hmlp_arch='125,250,500' --imp_chmlp_chunk_size=500

train_resnet_bbb.py --num_tasks=6 --num_classes_per_task=10 --net_type=resnet \
--resnet_block_depth=5 --resnet_channel_sizes="16,16,32,64" --hnet_type=chunked_hmlp \
--cond_emb_size=32 --chunk_emb_size=32 --hmlp_arch='10,10,10,10' --chmlp_chunk_size=90000

train_resnet_ssge.py --num_tasks=6 --num_classes_per_task=10 --net_type=wrn --wrn_block_depth=4 \
--wrn_widening_factor=10 --wrn_use_fc_bias --no_bias --imp_hnet_type=chunked_hmlp \
--latent_dim=32 --imp_chunk_emb_size=32 --hh_hnet_type=chunked_hmlp --hh_cond_emb_size=32 \
--hh_chunk_emb_size=32 --hh_hmlp_arch='' --hh_chmlp_chunk_size=500000 \
--imp_hmlp_arch='250,500,1000' --imp_chmlp_chunk_size=30000

train_resnet_bbb.py --num_tasks=6 --num_classes_per_task=10 --net_type=wrn --wrn_block_depth=4 \
--wrn_widening_factor=10 --wrn_use_fc_bias --no_bias --hnet_type=chunked_hmlp \
--cond_emb_size=32 --chunk_emb_size=32 --hmlp_arch='50,50,50,50' --chmlp_chunk_size=1000000

train_resnet_ssge.py --num_tasks=5 --num_classes_per_task=2 --net_type=resnet \
--resnet_block_depth=5 --resnet_channel_sizes="16,16,32,64" --imp_hnet_type=chunked_hmlp \
--latent_dim=32 --imp_chunk_emb_size=32 --hh_hnet_type=chunked_hmlp --hh_cond_emb_size=32 \
--hh_chunk_emb_size=32 --hh_hmlp_arch='' --hh_chmlp_chunk_size=7000 \
--imp_hmlp_arch='125,250,500' --imp_chmlp_chunk_size=500

train_resnet_ssge.py --num_tasks=5 --num_classes_per_task=2 --net_type=resnet \
--resnet_block_depth=5 --resnet_channel_sizes="16,16,32,64" --imp_hnet_type=structured_hmlp \
--latent_dim=3 --imp_chunk_emb_size="0,0,3,0,3,0,3,0" --hh_hnet_type=chunked_hmlp \
--hh_cond_emb_size=32 --hh_chunk_emb_size=32 --hh_hmlp_arch='' --hh_chmlp_chunk_size=7000 \
--imp_hmlp_arch=''

train_resnet_bbb.py --num_tasks=5 --num_classes_per_task=2 --net_type=resnet \
--resnet_block_depth=5 --resnet_channel_sizes="16,16,32,64" --hnet_type=chunked_hmlp \
--cond_emb_size=32 --chunk_emb_size=32 --hmlp_arch='10,10,10,10' --chmlp_chunk_size=80000

train_resnet_bbb.py --num_tasks=5 --num_classes_per_task=2 --net_type=resnet \
--resnet_block_depth=5 --resnet_channel_sizes="16,16,32,64" --hnet_type=structured_hmlp \
--cond_emb_size=3 --chunk_emb_size="0,0,3,0,3,0,3,0,0,0,3,0,3,0,3,0" --hmlp_arch=""

train_resnet_ssge.py --num_tasks=5 --num_classes_per_task=2 --net_type=wrn --wrn_block_depth=4 \
--wrn_widening_factor=10 --wrn_use_fc_bias --no_bias --imp_hnet_type=chunked_hmlp \
--latent_dim=32 --imp_chunk_emb_size=32 --hh_hnet_type=chunked_hmlp --hh_cond_emb_size=32 \
--hh_chunk_emb_size=32 --hh_hmlp_arch='' --hh_chmlp_chunk_size=500000 \
--imp_hmlp_arch='250,500,1000' --imp_chmlp_chunk_size=30000

train_resnet_ssge.py --num_tasks=5 --num_classes_per_task=2 --net_type=wrn --wrn_block_depth=4 \
--wrn_widening_factor=10 --wrn_use_fc_bias --no_bias --imp_hnet_type=structured_hmlp \
--latent_dim=8 --imp_chunk_emb_size="0,0,2,4,4,0,0,0,0" --hh_hnet_type=chunked_hmlp \
--hh_cond_emb_size=32 --hh_chunk_emb_size=32 --hh_hmlp_arch='' --hh_chmlp_chunk_size=500000 \
--imp_hmlp_arch=''

train_resnet_bbb.py --num_tasks=5 --num_classes_per_task=2 --net_type=wrn --wrn_block_depth=4 \
--wrn_widening_factor=10 --wrn_use_fc_bias --no_bias --hnet_type=chunked_hmlp \
--cond_emb_size=32 --chunk_emb_size=32 --hmlp_arch='50,50,50,50' --chmlp_chunk_size=1000000

train_resnet_ssge.py --num_tasks=10 --num_classes_per_task=10 --skip_tasks=1 --net_type=iresnet \
--iresnet_use_fc_bias --no_bias --iresnet_projection_shortcut --latent_dim=32 \
--imp_chunk_emb_size=32 --hh_hnet_type=chunked_hmlp --hh_cond_emb_size=32 \
--hh_chunk_emb_size=32 --hh_hmlp_arch='' --hh_chmlp_chunk_size=150000 \
--imp_hmlp_arch='250,500,1000' --imp_chmlp_chunk_size=10000

train_resnet_bbb.py --num_tasks=10 --num_classes_per_task=10 --skip_tasks=1 --net_type=iresnet \
--iresnet_use_fc_bias --no_bias --iresnet_projection_shortcut --hnet_type=chunked_hmlp \
--cond_emb_size=32 --chunk_emb_size=32 --hmlp_arch='100,100,100,100' --chmlp_chunk_size=200000
""".strip().split("\n\n")
)

RESNET32 = "--net_type=resnet --resnet_block_depth=5 --resnet_channel_sizes=16,16,32,64"
WRN28 = "--net_type=wrn --wrn_block_depth=4 --wrn_widening_factor=10 --wrn_use_fc_bias --no_bias"
RESNET18 = "--net_type=iresnet --iresnet_use_fc_bias --no_bias --iresnet_projection_shortcut"

MIXED_TASKS = "--num_tasks=6 --num_classes_per_task=10"
CIFAR10_TASKS = "--num_tasks=5 --num_classes_per_task=2"
CIFAR100_TASKS = "--num_tasks=10 --num_classes_per_task=10 --skip_tasks=1"


@dataclass(frozen=True)
class Section:
    """A section of the document: tasks, a main network, and chunked hypernetworks for it.

    Attributes:
        tasks: Options of the tasks.
        network: Options of the main network.
        gaussian: Whether a mean and a scale are generated for each weight.
        documented: Number of weights, or of means and scales, that the document states.
        rows: Hidden layers and chunk sizes.
    """

    tasks: str
    network: str
    gaussian: bool
    documented: int
    rows: tuple[tuple[str, int], ...]


_ARCHS32 = ("", "100,100", "10,10,10,10", "125,250,500")
_ARCHS28 = ("", "50,50,50,50", "250,500,1000")
_ARCHS18 = ("", "500,500", "100,100,100,100", "250,500,1000")


def _section(tasks: str, network: str, gaussian: bool, documented: int, *sizes: int) -> Section:
    archs = {RESNET32: _ARCHS32, WRN28: _ARCHS28, RESNET18: _ARCHS18}[network]
    return Section(tasks, network, gaussian, documented, tuple(zip(archs, sizes, strict=True)))


SECTIONS = (
    _section(MIXED_TASKS, RESNET32, False, 468_540, 7_000, 4_000, 40_000, 500),
    _section(MIXED_TASKS, RESNET32, True, 937_080, 14_000, 9_000, 90_000, 1_500),
    _section(MIXED_TASKS, WRN28, False, 36_511_244, 500_000, 700_000, 30_000),
    _section(MIXED_TASKS, WRN28, True, 73_022_488, 1_000_000, 1_000_000, 50_000),
    _section(CIFAR10_TASKS, RESNET32, False, 465_290, 7_000, 4_000, 40_000, 500),
    _section(CIFAR10_TASKS, RESNET32, True, 930_580, 14_000, 9_000, 80_000, 1_450),
    _section(CIFAR10_TASKS, WRN28, False, 36_479_194, 500_000, 700_000, 30_000),
    _section(CIFAR10_TASKS, WRN28, True, 73_022_488, 1_000_000, 1_000_000, 50_000),
    _section(CIFAR100_TASKS, RESNET18, False, 11_220_032, 150_000, 20_000, 100_000, 10_000),
    _section(CIFAR100_TASKS, RESNET18, True, 22_440_064, 300_000, 40_000, 200_000, 20_000),
    _section(CIFAR100_TASKS, RESNET32, False, 471_140, 7_000, 4_000, 40_000, 500),
    _section(CIFAR100_TASKS, RESNET32, True, 942_280, 14_000, 9_000, 80_000, 1_450),
)

# Where options of the document give other numbers than it states, with the reason.
CORRECTED = {
    # It repeats the number of the six tasks of ten classes, of which SplitCIFAR-10 has none.
    (CIFAR10_TASKS, WRN28, True): 2 * 36_479_194,
    # It does not count the hundred biases that --iresnet_use_fc_bias asks for; hypnettorch 0.0.4 looks for
    # them at --wrn_use_fc_bias.
    (CIFAR100_TASKS, RESNET18, False): 11_220_032 + 100,
    (CIFAR100_TASKS, RESNET18, True): 2 * (11_220_032 + 100),
}

# The only row whose hypernetwork is larger than what it generates, although it is an example command.
ABOVE_ONE = (MIXED_TASKS, RESNET32, True, "10,10,10,10", 90_000)

# Embeddings bring this row above 1, by less than a thousandth: network, gcd chunking, size of embeddings.
SLIGHTLY_ABOVE_ONE = (RESNET32, True, 32)


@dataclass(frozen=True)
class Structure:
    """A section on structured hypernetworks for SplitCIFAR-10.

    Attributes:
        network: Options of the main network.
        gcd: Whether layers are cut by the greatest common divisor of their channels.
        documented: Outputs, chunks and percents of all outputs of each internal hypernetwork, as the document
            states them for one set of weights; it has two such sets for a Gaussian.
        rows: Size of the noise or of the task embeddings, sizes of the chunk embeddings, hidden layers.
    """

    network: str
    gcd: bool
    documented: tuple[tuple[int, int, str], ...]
    rows: tuple[tuple[int, str, str], ...]


_RESNET_MLPS = "32,3;32,3;32,6;64,32,3;64,32,6;64,32,3;64,32,6;32,3"
_RESNET_GCD_MLPS = "32,8;32,8;64,32,24;64,32,24;64,32,24;32,8"
_WRN_MLPS = "32,8;32,8;64,32,10;64,32,12;64,32,12;32,8;32,8;32,8;32,8"
_WRN_GCD_MLPS = "32,5;64,32,21;64,32,13;64,32,13;32,5;32,5;32,5;32,5"

STRUCTURES = (
    Structure(
        RESNET32,
        False,
        (
            (480, 1, "0.1"),
            (2352, 1, "0.5"),
            (2352, 9, "4.5"),
            (4704, 1, "1"),
            (9312, 9, "18"),
            (18624, 1, "4"),
            (37056, 9, "71.7"),
            (650, 1, "0.14"),
        ),
        ((3, "0,0,3,0,3,0,3,0", ""), (8, "0,0,8,0,8,0,8,0", _RESNET_MLPS)),
    ),
    Structure(
        RESNET32,
        True,
        (
            (480, 1, "0.1"),
            (2352, 1, "0.5"),
            (2352, 11, "5.6"),
            (4656, 22, "22"),
            (9264, 36, "71.7"),
            (650, 1, "0.1"),
        ),
        ((8, "0,0,16,16,16,0", ""), (32, "0,0,32,32,32,0", _RESNET_GCD_MLPS)),
    ),
    Structure(
        WRN28,
        False,
        (
            (464, 1, "0"),
            (23360, 1, "0.1"),
            (230720, 7, "4.4"),
            (461440, 15, "19"),
            (1844480, 15, "75.8"),
            (2560, 1, "0"),
            (51200, 1, "0.1"),
            (204800, 1, "0.6"),
            (6410, 1, "0"),
        ),
        ((8, "0,0,2,4,4,0,0,0,0", ""), (32, "0,0,32,32,32,0,0,0,0", _WRN_MLPS)),
    ),
    Structure(
        WRN28,
        True,
        (
            (464, 1, "0"),
            (23360, 71, "4.5"),
            (461440, 15, "19"),
            (1844480, 15, "75.8"),
            (2560, 1, "0"),
            (51200, 1, "0.1"),
            (204800, 1, "0.6"),
            (6410, 1, "0"),
        ),
        ((5, "0,16,8,8,0,0,0,0", ""), (32, "0,32,32,32,0,0,0,0", _WRN_GCD_MLPS)),
    ),
)
