"""A configuration module for ``hnetfast.hpsearch.hpsearch``: copy it, and say what your script needs.

The script must have an option ``--out_dir`` (or another, see ``_OUT_ARG``), and write there a file with lines
of a keyword and its value, such as ``acc_final 97.5`` and, at its end, ``finished 1``.
"""

# The values that each option of the script may have; a flag's are False and True. Options that are left out
# keep the script's own defaults. The output folder is set by the search. Text with blanks needs quotes of its
# own only for hypnettorch; here the search adds them.
grid = {
    "float_option": [0.5, 1.0],
    "flag_option": [False, True],
    "string_option": ['"example string"', '"another string"'],
}

# Exceptions, enforced one after the other: where every option on the left has one of its values, the
# options on the right take theirs instead, in every combination. A condition on an option that is not in the
# grid never holds.
conditions = [({"option1": [1]}, {"option2": [-1]})]

# The script that is executed.
_SCRIPT_NAME = "train.py"

# The file in a run's output folder, and the keywords in it; "finished" must be among them.
_SUMMARY_FILENAME = "performance_overview.txt"
_SUMMARY_KEYWORDS = ["finished"]

# The keyword by which runs are compared (None: the first), and whether a lower value is better.
_PERFORMANCE_KEY = None
_PERFORMANCE_SORT_ASC = False

# The script's option for its output folder.
_OUT_ARG = "out_dir"

# Optional: a function that reads the summary instead, with the arguments and the result of the one below.
_SUMMARY_PARSER_HANDLE = None

# Optional: a function that tells whether a run is good enough to be kept, see the one below; for
# hnetfast.hpsearch.hpsearch_postprocessing.
_PERFORMANCE_EVAL_HANDLE = None

# Optional: a function that parses the script's arguments, for hnetfast.hpsearch.gather_random_seeds.
_ARGPARSE_HANDLE = None


def _get_performance_summary(out_dir: str, cmd_ident: int) -> dict[str, list]:
    """Read the summary of a run; set ``_SUMMARY_PARSER_HANDLE`` to a function like this.

    Args:
        out_dir: The run's output folder.
        cmd_ident: The run's number.

    Returns:
        Keyword to a list of one value.
    """
    raise NotImplementedError("a copy of this template reads its own summaries here")


def _performance_criteria(summary_dict: dict[str, list], performance_criteria: float) -> bool:
    """Tell whether a run is good enough; set ``_PERFORMANCE_EVAL_HANDLE`` to a function like this.

    Args:
        summary_dict: The summary that was read.
        performance_criteria: The criterion given on the command line.

    Returns:
        Whether the run meets it.
    """
    raise NotImplementedError("a copy of this template judges its own runs here")
