// Parts of the Python module that have a file of their own.
#pragma once
#include <ATen/core/ivalue.h>
#include <pybind11/pybind11.h>

namespace revati {
void bind_graph(pybind11::module_& m);
void bind_comm(pybind11::module_& m);
void bind_piece(pybind11::module_& m);
void bind_kernel(pybind11::module_& m);

/// An argument of a launch: tensors and plain values as they are, everything else by its text.
c10::IValue value_of(const pybind11::handle& h);
}
