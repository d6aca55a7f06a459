"""The tables of command-line options that :mod:`hnetfast.utils.cli_args` offers."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """An option; of type ``bool`` it is a flag.

    In ``help``, ``{network}`` and ``{prefix}`` stand for the network that the group is about and for what its
    options' names begin with. ``nets`` are the types of networks to which the option applies, if not to all.
    ``of_structured`` is what the help says besides where a "structured_hmlp" may be asked for.
    """

    name: str
    type: type
    help: str
    default: Any = None
    nets: tuple[str, ...] = ()
    choices: tuple[Any, ...] | None = None
    of_structured: str = ""


MAIN_NETS = (
    "mlp",
    "lenet",
    "resnet",
    "wrn",
    "iresnet",
    "zenke",
    "bio_conv_net",
    "chunked_mlp",
    "simple_rnn",
)
HNETS = ("hmlp", "chunked_hmlp", "structured_hmlp", "hdeconv", "chunked_hdeconv")
MLP_HNETS = ("hmlp", "chunked_hmlp", "structured_hmlp")
DECONV_HNETS = ("hdeconv", "chunked_hdeconv")
CHUNK_EMB_HNETS = ("chunked_hmlp", "chunked_hdeconv", "structured_hmlp")

MAIN_NET_OPTIONS = [
    Option("mlp_arch", str, "comma-separated sizes of the hidden layers.", nets=("mlp",)),
    Option(
        "lenet_type",
        str,
        "which architecture.",
        nets=("lenet",),
        choices=("mnist_small", "mnist_large", "cifar"),
    ),
    Option(
        "cmlp_arch",
        str,
        "comma-separated sizes of the hidden layers of the MLP that maps the reduced input to the output.",
        nets=("chunked_mlp",),
    ),
    Option(
        "cmlp_chunk_arch",
        str,
        "comma-separated sizes of the hidden layers of the MLP that reduces each chunk of the input.",
        nets=("chunked_mlp",),
    ),
    Option("cmlp_in_cdim", int, "size of a chunk of the input.", nets=("chunked_mlp",)),
    Option("cmlp_out_cdim", int, "size to which a chunk is reduced.", nets=("chunked_mlp",)),
    Option("cmlp_cemb_dim", int, "size of the chunk embeddings.", nets=("chunked_mlp",)),
    Option("resnet_block_depth", int, "number of residual blocks a group.", nets=("resnet",)),
    Option(
        "resnet_channel_sizes",
        str,
        "numbers of feature maps: 4 integers, separated by commas.",
        nets=("resnet",),
    ),
    Option("wrn_block_depth", int, "number of residual blocks a group.", nets=("wrn",)),
    Option("wrn_widening_factor", int, "factor of the convolutions' channels.", nets=("wrn",)),
    Option(
        "wrn_use_fc_bias",
        bool,
        'the fully connected layers keep their biases with "{prefix}no_bias".',
        nets=("wrn",),
    ),
    Option(
        "iresnet_use_fc_bias",
        bool,
        'the fully connected layers keep their biases with "{prefix}no_bias".',
        nets=("iresnet",),
    ),
    Option(
        "iresnet_channel_sizes",
        str,
        "numbers of feature maps: 5 integers, separated by commas.",
        nets=("iresnet",),
    ),
    Option(
        "iresnet_blocks_per_group",
        str,
        "numbers of blocks in the groups of convolutions: 4 integers, separated by commas.",
        nets=("iresnet",),
    ),
    Option("iresnet_bottleneck_blocks", bool, "bottleneck blocks instead of normal ones.", nets=("iresnet",)),
    Option(
        "iresnet_projection_shortcut",
        bool,
        "skip connections change size by 1x1 convolutions instead of by subsampling and padding.",
        nets=("iresnet",),
    ),
    Option(
        "srnn_rec_layers",
        str,
        "comma-separated sizes of the hidden recurrent layers. There may be none where the output layer is "
        'recurrent ("{prefix}srnn_no_fc_out").',
        nets=("simple_rnn",),
    ),
    Option(
        "srnn_pre_fc_layers",
        str,
        "comma-separated sizes of the fully connected layers before the recurrent ones.",
        nets=("simple_rnn",),
    ),
    Option(
        "srnn_post_fc_layers",
        str,
        "comma-separated sizes of the fully connected hidden layers after the recurrent ones. The output "
        'layer comes in addition, fully connected as well unless "{prefix}srnn_no_fc_out" is given.',
        nets=("simple_rnn",),
    ),
    Option("srnn_no_fc_out", bool, "the output layer is recurrent.", nets=("simple_rnn",)),
    Option(
        "srnn_rec_type", str, "kind of recurrent layers.", nets=("simple_rnn",), choices=("lstm", "elman")
    ),
]

# What main networks and hypernetworks share.
COMMON_OPTIONS = [
    Option(
        "net_act",
        str,
        'Activation function of the {network}; "linear" is none.',
        choices=("linear", "sigmoid", "relu", "elu", "tanh"),
    ),
    Option("no_bias", bool, "The {network} has no biases, except in normalisation layers."),
    Option("dropout_rate", float, "Dropout probability in the {network}; -1 is no dropout."),
    Option("specnorm", bool, "Spectral normalisation in the {network}."),
    Option("batchnorm", bool, "Batch normalisation in the {network}."),
    Option("no_batchnorm", bool, "No batch normalisation in the {network}."),
    Option(
        "bn_no_running_stats",
        bool,
        "Batch normalisation keeps no running statistics and uses those of the batch in evaluation too.",
    ),
    Option(
        "bn_distill_stats",
        bool,
        "After each task the hypernetwork learns the running statistics of batch normalisation, so that only "
        "those of this and the last task are stored. Without it, those of all tasks are, which takes memory "
        "in proportion to their number.",
    ),
    Option(
        "bn_no_stats_checkpointing",
        bool,
        "Batch normalisation has one set of running statistics for all tasks instead of one for each.",
    ),
]

HNET_OPTIONS = [
    Option(
        "hmlp_arch",
        str,
        "sizes of the hidden layers, separated by commas.",
        nets=MLP_HNETS,
        of_structured='For "structured_hmlp" also several such lists, one for each internal hypernetwork, '
        "separated by semicolons.",
    ),
    Option("cond_emb_size", int, "Size of the embeddings of conditions, for instance of tasks."),
    Option(
        "chmlp_chunk_size",
        int,
        "size of the chunks that the target network's weights are split into; one small hypernetwork "
        "generates them all.",
        nets=("chunked_hmlp",),
    ),
    Option(
        "chunk_emb_size",
        str,
        "size of the chunk embeddings.",
        nets=CHUNK_EMB_HNETS,
        of_structured='For "structured_hmlp" also a list of integers, separated by commas, one for each '
        "internal hypernetwork.",
    ),
    Option(
        "use_cond_chunk_embs",
        bool,
        'each condition has chunk embeddings of its own; "{prefix}cond_emb_size" may then be 0.',
        nets=CHUNK_EMB_HNETS,
    ),
    Option(
        "hdeconv_shape",
        str,
        "shape of the hyper-image that is generated: 2 or 3 integers, separated by commas.",
        nets=DECONV_HNETS,
    ),
    Option("hdeconv_num_layers", int, "number of layers.", default=5, nets=DECONV_HNETS),
    Option(
        "hdeconv_filters",
        str,
        "numbers of the layers' output channels, separated by commas.",
        default="128,512,256,128",
        nets=DECONV_HNETS,
    ),
    Option(
        "hdeconv_kernels",
        str,
        "size of the kernels: one integer, or one for each layer, separated by commas, or two for each layer "
        "where height and width differ.",
        default=5,
        nets=DECONV_HNETS,
    ),
    Option(
        "hdeconv_attention_layers",
        str,
        "after which layers there is self-attention: integers, separated by commas.",
        default="1,3",
        nets=DECONV_HNETS,
    ),
]

INIT_OPTIONS = [
    Option(
        "custom_network_init",
        bool,
        "Initialise weights by Xavier's method and biases by zero; embeddings of tasks and chunks have "
        "options of their own.",
    ),
    Option(
        "normal_init",
        bool,
        'Initialise weights by a normal distribution of standard deviation "std_normal_init" around zero '
        "instead of by Xavier's method; biases are zero.",
    ),
    Option("std_normal_init", float, 'Standard deviation of "normal_init".', default=0.02),
    Option("std_normal_temb", float, "Initial standard deviation of task embeddings.", default=1.0),
    Option(
        "std_normal_emb",
        float,
        "Initial standard deviation of the chunk embeddings of hypernetworks that have some.",
        default=1.0,
    ),
    Option(
        "hyper_fan_init",
        bool,
        "Hyperfan initialisation of hypernetworks; other options on their initialisation, such as "
        '"std_normal_emb", have no effect then. Chunked ones need a "std_normal_temb" that fits.',
    ),
]

MISCELLANEOUS_OPTIONS = [
    Option("num_workers", int, "Number of processes that load each data set.", default=8),
    Option("out_dir", str, "Folder for everything that this run writes."),
    Option("use_cuda", bool, "Compute on a GPU."),
    Option("no_cuda", bool, "Compute on the CPU although there is a GPU."),
    Option("loglevel_info", bool, "The console shows log messages from INFO on instead of from DEBUG on."),
    Option(
        "deterministic_run",
        bool,
        "cuDNN uses deterministic algorithms only. Without it, results may not be reproducible; with it, "
        "training may be much slower.",
    ),
    Option("publication_style", bool, "Draw figures as a publication needs them."),
    Option("show_plots", bool, "Show figures on the screen."),
    Option(
        "data_random_seed",
        int,
        "Seed of the data, which are drawn in each run, independent of the seed of training.",
        default=42,
    ),
    Option("random_seed", int, "Seed of all random numbers.", default=42),
]

EVAL_OPTIONS = [
    Option("val_iter", int, "Number of training iterations between validations."),
    Option("val_batch_size", int, "Batch size of validation and test."),
    Option(
        "val_set_size",
        int,
        "Number of training samples that become the validation set; 0 is none. There should be some where "
        "training, or the choice of hyperparameters, depends on how well the network generalises, and a set "
        "smaller than the test set saves time.",
    ),
    Option(
        "test_with_val_set",
        bool,
        "Test on the validation set instead of the test set, for instance in a hyperparameter search.",
    ),
]

TRAIN_OPTIONS = [
    Option("batch_size", int, "Batch size of training."),
    Option("n_iter", int, "Number of training iterations a task."),
    Option("epochs", int, 'Number of epochs a task; -1 leaves it to "n_iter".'),
    Option("lr", float, "Learning rate."),
    Option("momentum", float, "Momentum, of SGD and RMSprop only.", default=0.0),
    Option("weight_decay", float, "Weight decay.", default=0),
    Option("use_adam", bool, "Train by Adam instead of SGD."),
    Option("adam_beta1", float, "Adam's first decay rate (beta1)."),
    Option("use_rmsprop", bool, "Train by RMSprop instead of SGD."),
    Option("use_adadelta", bool, "Train by Adadelta instead of SGD."),
    Option("use_adagrad", bool, "Train by Adagrad instead of SGD."),
    Option(
        "clip_grad_value",
        float,
        "Gradients are clipped to plus and minus this; -1 is no clipping.",
        default=-1,
    ),
    Option("clip_grad_norm", float, "The gradients' norm is clipped to this; -1 is no clipping.", default=-1),
]

CL_OPTIONS = [
    Option("beta", float, "Strength of the regulariser against forgetting."),
    Option("train_from_scratch", bool, "Start each task with new networks."),
    Option("multi_head", bool, "Each task has outputs of its own."),
    Option(
        "cl_scenario",
        int,
        "Scenario of continual learning (arXiv:1809.10635): 1, task-incremental; 2, domain-incremental; "
        "3, class-incremental.",
        choices=(1, 2, 3),
    ),
    Option(
        "split_head_cl3",
        bool,
        'In scenario 3 of "cl_scenario", take the softmax over the outputs of one task instead of over all. '
        "A hypernetwork with an embedding for each task permits that: to choose the embedding, the task has "
        "to be inferred first.",
    ),
    Option("num_tasks", int, "Number of tasks."),
    Option("num_classes_per_task", int, "Number of classes a task."),
    Option(
        "calc_hnet_reg_targets_online",
        bool,
        "Compute the targets of the hypernetwork's regulariser when they are needed, from the hypernetwork "
        "as it was after the last task: memory hardly grows with the tasks. Without it, the weights of all "
        "previous tasks are generated once before a task, which takes less time.",
    ),
    Option(
        "hnet_reg_batch_size",
        int,
        "Largest number of previous tasks in one computation of the regulariser, drawn at random where "
        "there are more; -1 is all.",
    ),
]

GAN_OPTIONS = [
    Option("net_type", str, "Type of the {network}.", default="fc", choices=("fc",)),
    Option("fc_arch", str, "comma-separated sizes of the hidden layers.", default="100,100", nets=("fc",)),
    Option(
        "net_act",
        str,
        'Activation function of the {network}; "linear" is none.',
        default="relu",
        choices=("linear", "sigmoid", "relu", "elu"),
    ),
    Option("dropout_rate", float, "Dropout probability in the {network}; -1 is no dropout.", default=-1),
    Option("batchnorm", bool, "Batch normalisation in the {network}."),
    Option("specnorm", bool, "Spectral normalisation in the {network}."),
]

GENERATOR_OPTIONS = [
    Option("latent_dim", int, "Size of the noise that is the generator's input."),
    Option("latent_std", float, "Standard deviation of the noise.", default=1.0),
]

DATA_OPTIONS = [
    Option("disable_data_augmentation", bool, "No augmentation, in data sets that have one, like CIFAR-10."),
    Option("data_dir", str, "Folder of the data set."),
]
