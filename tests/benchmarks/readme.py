"""Keep READMEs, guides and chapters in step with the records: measured figures stand between markers, written here.

python tests/benchmarks/readme.py                  write the figures into READMEs, guides and the chapters' sources
python tests/benchmarks/readme.py --check          fail if one of them says something else
python tests/benchmarks/readme.py --block NAME     print a block of the README or a guide (run, test, loop), for .ci/run

A marker never begins a line: CommonMark would read an HTML block there, and tear the sentence in two.
"""

import ast
import itertools
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "chapters" / "guide").glob("*.md"))
PAGES = [README, ROOT / "README.zh-CN.md", *GUIDES, ROOT / "tests" / "corpus" / "README.md"]
PAGES += sorted((ROOT / "chapters" / "src").glob("*.py"))
RECORD, REVIEWS, CHECKED, COURSE, SPEED, SCALING = (
    json.loads((ROOT / "tests" / "benchmarks" / "results" / f"{name}.json").read_text())
    for name in ("digits", "reviews", "gradcheck", "course", "speed", "scaling")
)
METHODS = ("head", "lora", "full")
ANSWERS = COURSE.get("blind", COURSE["unseen"])  # a suite that those who wrote the checks have not looked at
REFERENCE = json.loads((ROOT / "tests" / "reference" / "results.json").read_text())
MINILM = json.loads((ROOT / "tests" / "reference" / "minilm.json").read_text())


def percent(shares):
    """Return the mean of some accuracies, and how far the seeds lie apart."""
    shares = [100 * share for share in shares]
    spread = (max(shares) - min(shares)) / 2
    return f"{sum(shares) / len(shares):.1f}" + (f" ± {spread:.1f}" if len(shares) > 1 else "")


def accuracies_table():
    """Return the table of accuracies on the digits."""
    runs, baselines = RECORD["runs"], RECORD["baselines"]
    shifts = ("digits-mixed", "digits-rotated", "digits-inverted")
    rows = [("trained", "parameters", "mixed", "rotated", "inverted"), ("---", *["---:"] * 4)]
    head, lora, full = (runs[f"{method} digits-mixed"] for method in METHODS)
    rows.append(("nothing: the frozen model", "0", *(percent([runs[f"lora {s}"]["before"]]) for s in shifts)))
    names = ("the head alone", "**LoRA, head frozen**", "everything")
    for name, method, run in zip(names, METHODS, (head, lora, full)):
        rows.append((name, f"{run['trainable']:,}", *(percent(runs[f"{method} {s}"]["after"]) for s in shifts)))
    nothing = (percent(baselines[s]["from_nothing"]) for s in shifts)
    rows.append(("*everything, from random numbers*", f"{full['trainable']:,}", *nothing))
    pixels = (percent([baselines[s]["logistic_on_pixels"]]) for s in shifts)
    rows.append(("*logistic regression on pixels*", "650", *pixels))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def reviews_table():
    """Return the table of the real BERT: accuracy, difference to the row above, time and memory of an epoch."""
    runs, paired, cost = REVIEWS["accuracy"]["runs"], REVIEWS["accuracy"]["paired"], REVIEWS["cost"]
    header = ("trained", "parameters", "accuracy", "more than the row above", "an epoch", "peak memory", "on disk")
    rows = [header, ("---", *("---:" for _ in header[1:]))]
    names = {"head": "the head alone", "lora": "**LoRA and the head**", "full": "everything"}
    above = {"head": None, "lora": "lora - head", "full": "full - lora"}
    for method, run in runs.items():
        gain = paired.get(above[method])
        low, high = (100 * end for end in gain["interval"]) if gain else (0, 0)
        size = run["bytes"].get("adapter", run["bytes"]["model"])
        rows.append(
            (
                names[method],
                f"{run['trainable']:,}",
                percent(run["after"]),
                f"{100 * gain['mean']:.1f} (95 %: {low:.1f} to {high:.1f})" if gain else "",
                f"{cost[method]['seconds']:.0f} s",
                f"{cost[method]['peak_bytes'] / 1e6:,.0f} MB",
                f"{size / 1e6:.1f} MB",
            )
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def examples_table():
    """Return the first three of the sentences that a run shows at random whose prediction the adapter changed."""
    rows = [("sentence", "rated", "before", "after"), ("---", "---", "---", "---")]
    changed = [e for e in REVIEWS["accuracy"]["examples"] if e["before"] != e["after"]][:3]
    rows += [(e["text"].replace("|", "\\|"), e["true"], e["before"], e["after"]) for e in changed]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def tried(method):
    """Return the accuracy on dev by learning rate, `0.002: 83.8, ...`, with as many epochs as the default has."""
    epochs = REVIEWS["accuracy"]["runs"][method]["options"]["epochs"]
    rows = [row for row in REVIEWS["choose"]["tried"] if (row["method"], row["epochs"]) == (method, epochs)]
    return ", ".join(f"{row['lr']:g}: {100 * sum(row['dev']) / len(row['dev']):.1f}" for row in rows)


def speed():
    """Return the figures of the comparison with PEFT, and what a step holds."""
    compared, peaks = without_coretype("compare"), without_coretype("memory")
    held = last_of(peaks)["bytes"]
    last = last_of(compared)
    versions = {**last["versions"], **last["peft_versions"]}
    names = ", ".join(f"{name} {versions[name].split('+')[0]}" for name in ("numpy", "torch", "transformers", "peft"))
    grouped = REVIEWS["grouped"]["grouped - mixed"]
    low, high = (100 * end for end in grouped["interval"])
    checks = [row["ms"] for part in without_coretype("checks").values() for row in part["operations"].values()]
    first = without_coretype("start").values()
    return {
        **scaling(),
        **coretype(),
        "speed": "\n" + speed_table(compared) + "\n",
        "speed_ideas": "\n" + ideas_table(compared) + "\n",
        "speed_peaks": "\n" + peaks_table(last_of(peaks)["peak"]) + "\n",
        "speed_pieces": str(last["max_tokens"]),
        "speed_processes": str(last["processes"]),
        "checks": f"{min(checks):.0f} to {max(checks):.0f}",
        **{f"reviews_{name}": percent(shares) for name, shares in REVIEWS["grouped"]["after"].items()},
        "grouped": f"{100 * grouped['mean']:+.1f} (95 %: {low:+.1f} to {high:+.1f})",
        "speed_agree": f"{max(row['gradients agree within'] for row in compared.values()):.0e}",
        "speed_long": long_batches(compared),
        "speed_padding": f"{100 * last['padding']:.0f}",
        "speed_floor": " and ".join(f"{1 / row['floor']['ratio']:.1f}" for row in without_coretype("profile").values()),
        "speed_bytes": "\n" + bytes_table(held) + "\n",
        "speed_tokens": str(held["lora"]["tokens"]),
        "speed_import": f"{max(row['import'] for row in first):.2f}",
        "speed_first": f"{max(row['first prediction'] for row in first):.1f}",
        "speed_machine": f"{last['machine']} ({', '.join(last['blas'])}; {names})",
    }


def without_coretype(part):
    """Return what was measured by that part with the kernel that OpenBLAS chose itself, by processor."""
    return {name: row for name, row in SPEED[part].items() if row["openblas_coretype"] == "not set"}


def last_of(rows):
    """Return the row of the processor that the guide calls the second."""
    return list(rows.values())[-1]


def coretype():
    """Return how many times as long a step and its products take with another kernel than the one that is chosen."""
    profiles = SPEED["profile"]
    row = last_of({name: row for name, row in profiles.items() if row["openblas_coretype"] != "not set"})
    plain = profiles[row["processor"]]
    return {
        "kernel": row["openblas_coretype"],
        "kernel_processor": row["processor"],
        "kernel_step": f"{row['ms'] / plain['ms']:.1f}",
        "kernel_products": f"{row['floor']['ms'] / plain['floor']['ms']:.1f}",
    }


def speed_table(compared):
    """Return the ratios of ours to PEFT's by processor, with the quartiles of the pairs."""
    heads = [
        head for name in compared for head in (f"{name}: PEFT and lora_np, ms", "ratio (middle half of the pairs)")
    ]
    rows = [("", *heads), ("---", *["---:"] * len(heads))]
    for kind, found in last_of(compared).items():
        if isinstance(found, dict) and "ours" in found:
            row = [kind]
            for part in compared.values():
                ours, (low, high) = part[kind]["ours"], part[kind]["ours"]["quartiles"]
                row.append(f"{part[kind]['PEFT']['ms']:,.0f}, {ours['ms']:,.0f}")
                row.append(f"{ours['ratio']:.2f} ({low:.2f} to {high:.2f})")
            rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def long_batches(compared):
    """Return how a step and a prediction on long batches compare with PEFT's, on each processor."""
    parts = []
    for part in compared.values():
        ratios = [
            part[f"{kind}, {what}"]["ours"]["ratio"] for kind in ("training", "inference") for what in BATCHES[1:]
        ]
        parts.append(f"{min(ratios):.2f} to {max(ratios):.2f} times")
    return f"{parts[0]} as long as PyTorch's on the first processor, {parts[1]} on the second"


IDEAS = {
    "ours, one worker": "one thread instead of two",
    "ours, memory given back": "freed memory goes back to the system",
    "ours, whole shares": "a thread's share whole, not in pieces",
}
BATCHES = ("real batches", "32 x 128", "16 x 256")


def ideas_table(compared):
    """Return how much longer a training step takes without each idea, on each processor."""
    rows = [("a step without it, over one with it", *BATCHES), ("---", *["---:"] * 3)]
    for side, name in IDEAS.items():
        found = [[part[f"training, {what}"] for part in compared.values()] for what in BATCHES]
        rows.append(
            (name, *(", ".join(f"{row[side]['ratio'] / row['ours']['ratio']:.2f}" for row in part) for part in found))
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def peaks_table(peaks):
    rows = [("peak of the whole process, MB", *BATCHES), ("---", *["---:"] * 3)]
    names = {"PEFT": "PyTorch + PEFT", "ours": "lora_np", "ours, whole shares": "lora_np, shares whole"}
    for side, name in names.items():
        rows.append((name, *(f"{peaks[what][side]['peak_bytes'] / 1e6:,.0f}" for what in BATCHES)))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def scaling():
    """Return how time and activations at one size compare with those at another, `scaling_ms_batch_1_16` and so on."""
    found = {}
    for size in SCALING["base"]:
        rows = {row[size]: row for row in SCALING[size]}
        for (low, first), (high, second) in itertools.combinations(rows.items(), 2):
            held = second["bytes"]["activations"] / first["bytes"]["activations"]
            found[f"scaling_ms_{size}_{low}_{high}"] = f"{second['ms'] / first['ms']:.1f}"
            found[f"scaling_mb_{size}_{low}_{high}"] = f"{held:.1f}"
    return found


def bytes_table(held):
    rows = [("", "LoRA", "everything"), ("---", "---:", "---:")]
    for kind in ("weights", "trained", "gradients", "optimiser", "activations"):
        rows.append((kind, *(f"{held[method][kind] / 1e6:,.1f}" for method in ("lora", "full"))))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


SUITES = ("seen", "foreign", "unseen")


def methods_table():
    """Return the methods of adaptation: configuration, numbers on MiniLM, how near to PEFT."""
    rows = ["| method | configuration | on MiniLM | numbers that are trained | largest error beside PEFT | on |"]
    rows.append("| --- | --- | --- | ---: | ---: | --- |")
    for name, known in REFERENCE["methods"].items():
        given = ", ".join(f"{option}={value!r}" for option, value in known["settings"].items())
        models = ", ".join(known["models"])
        cells = name, f"`{known['config']}`", f"`{given}`" if given else "defaults", f"{known['trained']:,}"
        rows.append(f"| {' | '.join(cells)} | {known['largest error']:.0e} | {models} |")
    return "\n".join(rows)


def beside_lora():
    """Return what the registered methods of adaptation are called, without LoRA."""
    files = sorted(ROOT.joinpath("lora_np/adapt").glob("*.py"))
    names = [name for file in files for name in re.findall(r'^    name="(.+?)",$', file.read_text(), re.MULTILINE)]
    return ", ".join(name for name in names if name != "LoRA")


def families():
    """Return what config.json calls the families of models that there are."""
    files = ROOT.joinpath("lora_np/model/architectures").glob("*.py")
    return ", ".join(
        sorted(f"`{name}`" for file in files for name in re.findall(r'model_type="(.+?)"', file.read_text()))
    )


def world():
    """Return how many folders of transformers and PEFT lie in tests/reference/world."""
    models, adapters = (
        ROOT.joinpath("tests/reference/world").rglob(f"{name}.json") for name in ("config", "adapter_config")
    )
    return f"{len(list(models))} model folders and {len(list(adapters))} adapter folders"


def checked():
    """Return the figures of the gradient check on its suites of mistakes, `seen_cause` and so on."""
    found = {"check_seeds": str(CHECKED["seeds"]), "causes": "\n" + causes_table() + "\n"}
    for suite in SUITES:
        total = {**dict.fromkeys(("group", "none"), 0), **CHECKED[suite]}
        named = {"cause": total["cause"], "group": total["cause"] + total["group"], "none": total["none"]}
        found |= {f"{suite}_{what}": f"{100 * count / total['wrong']:.0f}" for what, count in named.items()}
        found |= {f"{suite}_wrong": f"{total['wrong'] // CHECKED['seeds']:,}"}
    sums = {what: sum(CHECKED[suite].get(what, 0) for suite in SUITES) for what in ("wrong", "found", "right")}
    found["missed"] = f"{sums['wrong'] - sums['found']:,} of {sums['wrong']:,}"
    found["alarms"] = f"{sum(CHECKED[suite].get('false alarms', 0) for suite in SUITES)} of {sums['right']:,}"
    found["rivals"] = "\n" + rivals_table() + "\n"
    found["corpus"] = "\n" + corpus_table() + "\n"
    found["judged"] = "\n" + answers_table() + "\n"
    return found


def answer_suites():
    return {name: found for name, found in COURSE.items() if "labelled" in found}


def corpus_table():
    """Return how many entries there are of each kind and suite."""
    rows = [("entries", "suite", "wrong", "right"), ("---", "---", "---:", "---:")]
    for suite in SUITES:
        counts = (CHECKED[suite][what] // CHECKED["seeds"] for what in ("wrong", "right"))
        rows.append(("backwards", suite, *map(str, counts)))
    rows += [("answers", name, str(found["wrong"]), str(found["right"])) for name, found in answer_suites().items()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def answers_table():
    """Return how the answers of each suite are judged, and what is named of those that have a label."""
    rows = [("suite", "rejected", "accepted", "labelled", "cause", "group", "wrong group", "nothing")]
    rows.append(("---", *["---:"] * 7))
    for name, found in answer_suites().items():
        judged = (f"{found['rejected']} of {found['wrong']}", f"{found['accepted']} of {found['right']}")
        rows.append((name, *judged, str(found["labelled"]), *shares(found, found["labelled"])))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def shares(counts, of):
    """Return the shares of causes, of groups at least, of wrong groups and of nothing named."""
    cause, group, other, none = (counts.get(what, 0) for what in ("cause", "group", "other", "none"))
    return [f"{100 * count / of:.1f} %" for count in (cause, cause + group, other, none)]


def causes_table():
    """Return what is found and named of each suite."""
    rows = [("suite", "tried", "found", "cause", "group", "wrong group", "nothing"), ("---", *["---:"] * 6)]
    for suite in SUITES:
        total = CHECKED[suite]
        rows.append((suite, f"{total['wrong']:,}", f"{total['found']:,}", *shares(total, total["wrong"])))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def rivals_table():
    """Return how often each rule takes a wrong backward for right, and a right one for wrong."""
    names = {
        "ours": "`lora_np.gradcheck.check`",
        "torch": "PyTorch's `gradcheck`",
        "cs231n": "CS231n's `rel_error` < 1e-5",
        "ng": "Ng's norm rule, 2e-7",
    }
    rows = [("rule", *(f"{what}, {suite}" for what in ("missed", "false alarms") for suite in SUITES))]
    rows += [("---", *["---:"] * 6)]
    for key, name in names.items():
        cells = []
        for suite in SUITES:
            total = CHECKED[suite]
            missed = total["wrong"] - total["found"] if key == "ours" else total.get(f"{key} misses", 0)
            cells.append(f"{missed} of {total['wrong']:,}")
        for suite in SUITES:
            total = CHECKED[suite]
            right = total["right"] - total.get(f"{key} accepts right", 0)
            alarms = total.get("false alarms", 0) if key == "ours" else right
            cells.append(f"{alarms} of {total['right']:,}")
        rows.append((name, *cells))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def exercises():
    """Return {chapter: [(place, minutes, level, name)]} in order, as the exercises' files say."""
    found = {}
    for path in (ROOT / "lora_np" / "course" / "exercises").glob("[!_]*.py"):
        line = r'^CHAPTER, PLACE, MINUTES, LEVEL = (\d+), (\d+), (\d+), "(\w+)"$'
        chapter, place, minutes, level = re.search(line, path.read_text(encoding="utf-8"), re.MULTILINE).groups()
        found.setdefault(int(chapter), []).append((int(place), int(minutes), level, path.stem))
    return {chapter: sorted(found[chapter]) for chapter in sorted(found)}


def times():
    """Return {chapter: minutes} as the chapters themselves say."""
    found = {}
    for path in sorted((ROOT / "chapters" / "src").glob("[0-9][0-9]_*.py")):
        said = re.search(r"\*\*Time:?\*\*(?:\n#|\s|about)*(\d+) minutes", path.read_text(encoding="utf-8"))
        if not said:
            raise SystemExit(f"{path.relative_to(ROOT)} says no time; expected **Time** about 60 minutes")
        found[int(path.stem[:2])] = int(said[1])
    return found


PLANS = {  # {plan: {when: its parts}}, a part a chapter: whole, or from an exercise on, or up to one
    "four_weeks": {
        "week 1": [(1,), (2,)],
        "week 2": [(3,), (4, None, "rms_norm_backward")],
        "week 3": [(4, "softmax_backward", None), (5,)],
        "week 4": [(6,), (7,), (8,)],
    },
    "eight_weeks": {
        "week 1": [(1,)],
        "week 2": [(2,)],
        "week 3": [(3,)],
        "week 4": [(4, None, "rms_norm_backward")],
        "week 5": [(4, "softmax_backward", None)],
        "week 6": [(5,), (6, None, "inject")],
        "week 7": [(6, "train", None), (7,)],
        "week 8": [(8,)],
    },
    "one_day": {
        "9:00": [(1, None, "rank_for_error"), (3, None, "choose_step")],
        "11:00": [(5,)],
        "13:30": [(6, None, "train")],
        "15:30": [(7,)],
    },
}


HUNTS = {"mlp_backward": 30}  # minutes for the bugs to be found, which are no exercises, by the exercise after them


def part(chapter, first=None, last=None):
    """Return what a part is called, the minutes of its exercises, and its share of the chapter's time."""
    names = [name for *_, name in exercises()[chapter]]
    start, end = names.index(first) if first else 0, names.index(last) + 1 if last else len(names)
    minutes = [minutes for _, minutes, *_ in exercises()[chapter]]
    work = [minutes + HUNTS.get(name, 0) for _, minutes, _, name in exercises()[chapter]]
    words = f" from `{first}` on" if first else f" to `{last}`" if last else ""
    share = times()[chapter] * sum(work[start:end]) / sum(work)
    return f"{chapter}{words}", sum(minutes[start:end]), 5 * round(share / 5)


def plan_table(plan):
    rows = [("when", "chapters", "exercises, minutes", "with reading, minutes"), ("---", "---", "---:", "---:")]
    for when, parts in PLANS[plan].items():
        words, exercised, whole = zip(*(part(*one) for one in parts))
        rows.append((when, ", ".join(words), str(sum(exercised)), str(sum(whole))))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def minutes_table():
    """Return what each chapter takes, and what its exercises are worth."""
    build = (ROOT / "chapters" / "build.py").read_text(encoding="utf-8")
    worth = ast.literal_eval(re.search(r"^POINTS = (.*)$", build, re.MULTILINE)[1])
    rows = [("chapter", "minutes", "of these exercises", "exercises", "points")]
    rows.append(("---", *["---:"] * 4))
    for chapter, found in exercises().items():
        points = sum(worth[level] for _, _, level, _ in found)
        minutes = sum(minutes for _, minutes, *_ in found)
        rows.append(tuple(map(str, (chapter, times()[chapter], minutes, len(found), points))))
    total = [sum(int(row[k]) for row in rows[2:]) for k in range(1, 5)]
    rows.append(("together", *(f"{number:,}" for number in total)))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def values():
    """Return the figures that a page may quote, by the name of their marker."""
    lora = RECORD["runs"]["lora digits-mixed"]
    size = lora["bytes"]
    errors = next(value for key, value in REFERENCE.items() if "errors" in key)
    return {
        "accuracies": "\n" + accuracies_table() + "\n",
        "shown": f"\n```text\n{RECORD['shown']}\n```\n",
        "seconds": f"{sorted(lora['seconds'])[1]:.0f}",  # of three
        "before": percent([lora["before"]]),
        "share": f"{100 * lora['trainable'] / lora['total']:.1f}",
        "trainable": f"{lora['trainable']:,}",
        "adapter_bytes": f"{size['adapter'] / 1000:.0f} kB",
        "model_bytes": f"{size['model'] / 1000:.0f} kB",
        "merge": f"{lora['merge_difference']:.0e}",
        "upright_base": percent([lora["upright_base"]]),
        "upright_after": percent(RECORD["runs"]["lora digits-rotated"]["upright_after"]),
        "upright_mixed": percent(lora["upright_after"]),
        "pretrain_seconds": f"{RECORD['pretraining']['seconds']:.0f}",
        "pretrain_accuracy": percent([RECORD["pretraining"]["test"]["accuracy"]]),
        "beside_lora": beside_lora(),
        "families": families(),
        "families_methods": families(),
        "methods": "\n" + methods_table() + "\n",
        "world": world(),
        "reference": f"{max(v for k, v in errors.items() if 'float32' not in k):.0e}",
        "minilm": f"{max(next(v for k, v in MINILM.items() if 'errors' in k)['float64'].values()):.0e}",
        "reviews": "\n" + reviews_table() + "\n",
        "examples": "\n" + examples_table() + "\n",
        **{f"mixed_{method}": percent(RECORD["runs"][f"{method} digits-mixed"]["after"]) for method in METHODS},
        **{f"reviews_{method}": percent(run["after"]) for method, run in REVIEWS["accuracy"]["runs"].items()},
        "reviews_memory": f"{REVIEWS['cost']['full']['peak_bytes'] / REVIEWS['cost']['lora']['peak_bytes']:.1f}",
        **checked(),
        **speed(),
        "minutes": "\n" + minutes_table() + "\n",
        **{f"minutes_{chapter}": str(minutes) for chapter, minutes in times().items()},
        **{plan: "\n" + plan_table(plan) + "\n" for plan in PLANS},
        "sitting_1": str(part(*PLANS["eight_weeks"]["week 4"][0])[2]),
        "sitting_2": str(part(*PLANS["eight_weeks"]["week 5"][0])[2]),
        "answers_wrong": f"{ANSWERS['rejected']} of {ANSWERS['wrong']}",
        "answers_right": f"{ANSWERS['accepted']} of {ANSWERS['right']}",
        "answers_cause": f"{100 * ANSWERS['cause'] / ANSWERS['labelled']:.0f}",
        "answers_group": f"{100 * (ANSWERS['cause'] + ANSWERS['group']) / ANSWERS['labelled']:.0f}",
        **{f"tried_{method}": tried(method) for method in METHODS},
        **{f"lora_{name}": percent(found["accuracy"]) for name, found in REVIEWS["accuracy"]["elsewhere"].items()},
        **{
            f"most_{name}": percent([max(found["positive"], 1 - found["positive"])])
            for name, found in REVIEWS["accuracy"]["elsewhere"].items()
        },
        "dev_rows": str(REVIEWS["choose"]["dev_rows"]),
        "head_epochs": str(REVIEWS["accuracy"]["runs"]["head"]["options"]["epochs"]),
        "loaded": f"{REVIEWS['cost']['lora']['loaded_bytes'] / 1e6:.0f}",
        "cost_machine": f"{REVIEWS['cost']['machine']} ({REVIEWS['cost']['processor']})",
        "reviews_before": percent(REVIEWS["accuracy"]["runs"]["lora"]["before"]),
        "machine": f"{RECORD['machine']}, NumPy {RECORD['versions']['numpy']}, Python {RECORD['versions']['python']}",
    }


def filled(text, name="the page"):
    """Return a page with every marked figure written anew: `<!-- name -->figure<!-- / -->`."""
    known = values()

    def write(match):
        if match[1] not in known:
            raise SystemExit(
                f"{name} asks for a figure {match[1]!r} that no record holds; there are {', '.join(known)}"
            )
        return f"<!-- {match[1]} -->{known[match[1]]}<!-- / -->"

    text = re.sub(r"<!-- ([\w-]+) -->(?:(?!<!-- [\w-]+ -->).)*?<!-- / -->", write, text, flags=re.DOTALL)
    if len(re.findall(r"<!-- [\w-]+ -->", text)) != text.count("<!-- / -->"):
        raise SystemExit(f"{name} has a figure that ends nowhere, or an end without one: <!-- name -->figure<!-- / -->")
    for number, marker in torn(text):
        raise SystemExit(
            f"{name}, line {number} begins with the marker {marker}, which would tear its sentence in two; put a word"
            " before it on that line, or, before a table, an empty line"
        )
    return text


LINE = re.compile(r"(?:# )?[ \t]*(?:(?:[-*+>]|\d+[.)])[ \t]+)*(<!--.*)")  # a comment first, or first in an item


def torn(text):
    """Yield (number, marker) of each line where CommonMark reads an HTML block inside of a sentence."""
    before = ""
    for number, line in enumerate(text.split("\n"), 1):
        found = LINE.match(line)
        alone = found and re.fullmatch(r"(?:# )?<!-- [^>]* -->", line)
        if found and not (alone and (before.strip(" #") == "" or found[1] == "<!-- / -->")):
            yield number, re.match(r"<!--.*?(-->|$)", found[1])[0]
        before = line


def block(name):
    """Return the code block that follows `<!-- block: name -->`, in the README or a guide."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in (README, *GUIDES))
    found = re.findall(rf"<!-- block: {name} -->\s*```\w*\n(.*?)```", text, re.DOTALL)
    if len(found) != 1:
        raise SystemExit(f"expected one block {name!r} in the README and the guides, but there are {len(found)}")
    return found[0].strip()


def main(argv):
    if argv[:1] == ["--block"] and len(argv) == 2:
        print(block(argv[1]))
    elif argv in ([], ["--check"]):
        pages = {path: path.read_text(encoding="utf-8") for path in PAGES}
        written = {path: filled(text, path.relative_to(ROOT)) for path, text in pages.items()}
        stale = [path for path, text in pages.items() if written[path] != text]
        if argv and stale:
            names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
            raise SystemExit(f"{names} and the records disagree; run python tests/benchmarks/readme.py")
        for path in stale:
            path.write_text(written[path], encoding="utf-8")
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
