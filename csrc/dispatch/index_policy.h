// Which positions an op finds in a tensor that nobody computed: argmax, topk, sort and their kind.
#pragma once
#include <ATen/core/stack.h>

#include "dispatch/op_info.h"

namespace revati {

/// Reads off the schema which result holds positions along a dimension; -1: none.
int find_index_result(const c10::FunctionSchema& schema);

/// Fills that result, where it has values, with positions that exist in the searched dimension of the phantom
/// `args[0]`. A single pick is the token id; whole sorts keep the order; the k best are k different ones, spread evenly
/// over the rows where there are few to choose from, as balanced experts of a router are.
void choose_indices(const OpInfo& info, const c10::IValue* args, const torch::jit::Stack& results);

}  // namespace revati
