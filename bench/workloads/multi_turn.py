#!/usr/bin/env python3
"""Makes multi-turn conversations in the format of the request traces that simm-bench replays.

Each session is a chain of turns: a request's input is everything said so far plus a new question,
so its prefix blocks are those of the turn before and some new ones. Sessions share one of a few
system prompts, begin at random times and pause between turns. One JSON object a line, in order of
time:

    {"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [block, ...]}

hash_ids names one block of --block tokens each; equal ids mean equal prefixes. Only full blocks
count.
"""

import argparse
import json
import random
import sys


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=200, help="conversations [200]")
    parser.add_argument("--turns", type=int, default=6, help="turns of each, on average [6]")
    parser.add_argument("--tokens", type=int, default=800, help="tokens a question, mean [800]")
    parser.add_argument("--output-tokens", type=int, default=400, help="an answer, mean [400]")
    parser.add_argument("--prompts", type=int, default=4, help="different system prompts [4]")
    parser.add_argument("--prompt-tokens", type=int, default=2048, help="tokens of each [2048]")
    parser.add_argument("--block", type=int, default=512, help="tokens a block [512]")
    parser.add_argument("--think-s", type=float, default=30, help="mean pause, seconds [30]")
    parser.add_argument("--hours", type=float, default=1, help="sessions begin within [1]")
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same output [1]")
    parser.add_argument("--output", default="-", help="file; - is stdout [-]")
    arguments = parser.parse_args()
    for name in ("sessions", "turns", "tokens", "output_tokens", "prompts", "block"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return arguments


class BlockNames:
    """Numbers blocks: the shared ones of each system prompt, fresh ones for everything else."""

    def __init__(self):
        self.next_id = 0
        self.shared = {}

    def fresh(self):
        self.next_id += 1
        return self.next_id - 1

    def of_prompt(self, prompt, index):
        if (prompt, index) not in self.shared:
            self.shared[prompt, index] = self.fresh()
        return self.shared[prompt, index]


def session(arguments, chance, names):
    """The requests of one conversation."""
    prompt = chance.randrange(arguments.prompts)
    tokens = arguments.prompt_tokens
    blocks = [names.of_prompt(prompt, i) for i in range(tokens // arguments.block)]
    now_ms = chance.uniform(0, arguments.hours * 3_600_000)
    turns = max(1, round(chance.expovariate(1 / arguments.turns)))
    for _ in range(turns):
        tokens += max(1, round(chance.expovariate(1 / arguments.tokens)))
        while len(blocks) < tokens // arguments.block:
            blocks.append(names.fresh())
        output = max(1, round(chance.expovariate(1 / arguments.output_tokens)))
        if blocks:
            yield {
                "timestamp": round(now_ms),
                "input_length": tokens,
                "output_length": output,
                "hash_ids": list(blocks),
            }
        tokens += output
        now_ms += 1000 * (output / 50 + chance.expovariate(1 / arguments.think_s))


def main():
    arguments = parse_arguments()
    chance = random.Random(arguments.seed)
    names = BlockNames()
    requests = []
    for _ in range(arguments.sessions):
        requests.extend(session(arguments, chance, names))
    requests.sort(key=lambda request: request["timestamp"])
    out = sys.stdout if arguments.output == "-" else open(arguments.output, "w", encoding="utf-8")
    for request in requests:
        print(json.dumps(request), file=out)
    if out is not sys.stdout:
        out.close()


if __name__ == "__main__":
    main()
