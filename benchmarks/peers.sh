#!/bin/sh
# Makes the environment of the benchmarks' peers that cannot share the project's own.
#
#     benchmarks/peers.sh [FOLDER]
#
# The folder is the argument, else HEADRACE_PEERS, else .peers; PYTHON names the interpreter to make it with. The
# benchmarks look for it in HEADRACE_PEERS, else in .peers.
#
# datatrove's filters take their words from spaCy's rule-based tokenizers, and from jieba in Chinese: both come whole
# with their packages, so that nothing is downloaded later. Its MinHash needs xxhash<4, though it does not say so.
#
# nanoGPT, the peer of the trainer, is no package: the benchmarks of training take a checkout of its repository from
# FOLDER/nanoGPT, or as --nanogpt FOLDER. They need nothing else from here. transformers' Trainer, the peer of the
# objectives, runs in the project's own environment, where it needs accelerate.
set -eu

folder=${1:-${HEADRACE_PEERS:-.peers}}
"${PYTHON:-python3}" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet 'datatrove[processing,io]==0.10.1' 'xxhash<4' spacy jieba datasketch fasttext-community kenlm pydivsufsort rensa
"$folder/bin/python" -c 'import datatrove.pipeline.dedup, datatrove.pipeline.filters, datasketch, fasttext, jieba, kenlm, pydivsufsort, rensa, spacy'
echo "The peers are in $folder. Where that is not .peers, set HEADRACE_PEERS=$folder."
