// Compiled pieces for Python: record one run, let the compiler fuse what it launched, keep it, play it. And notes:
// what a part of an engine launches while it runs, to launch it again.
#include "dispatch/piece.h"

#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include "device/backend.h"
#include "dispatch/live_price.h"
#include "python/bindings.h"
#include "timeline/clock.h"
#include "timeline/timeline.h"

namespace revati {
namespace {

/// Everything that this thread launches between begin() and end(), without time passing.
class Recorder {
 public:
  void begin() {
    own_.emplace();
    outer_ = Timeline::exchange_recording(&sequence_);
  }
  void end() {
    Timeline::exchange_recording(outer_);
    own_.reset();
  }
  size_t count() const { return sequence_.launches.size(); }
  bool repeatable() const { return sequence_.repeatable; }
  py::list launches() const {
    py::list l;
    for (auto& x : sequence_.launches) l.append(py::make_tuple(x.stats->name, x.stats->family, x.stats->shapes, x.duration_ns, x.group));
    return l;
  }
  /// Of the recorded launches those with these numbers, in this order.
  Sequence chosen(const std::vector<size_t>& order) const {
    Sequence s;
    s.repeatable = sequence_.repeatable;
    for (size_t k : order) s.launches.push_back(sequence_.launches.at(k));
    return s;
  }

 private:
  Sequence sequence_;
  Sequence* outer_ = nullptr;
  std::optional<OwnWork> own_;
};

/// What is launched between begin() and end(), and how long the host is busy with it. With values: over live values
/// as they are at each repetition, as in a captured graph; without, just what was launched.
class Note {
 public:
  explicit Note(bool values) { sequence_.with_values = values; }
  void begin() {
    began_ns_ = HostClock::own_ns();
    outer_ = Timeline::exchange_noting(&sequence_);
    if (outer_) outer_->repeatable = false;  // what goes here it does not see
  }
  void end() {
    Timeline::exchange_noting(outer_);
    host_ns_ = HostClock::own_ns() - began_ns_;
  }
  bool repeatable() const { return sequence_.repeatable; }
  int64_t host_ns() const { return host_ns_; }
  int64_t replays() const {
    return std::count_if(sequence_.launches.begin(), sequence_.launches.end(), [](auto& l) { return bool(l.graph); });
  }
  void repeat(int64_t host_ns) const {
    OwnWork own;
    let_python_waiter_in();
    if (sequence_.with_values) next_price_epoch();
    Timeline::get().repeat(sequence_, host_ns, current_device());
  }

 private:
  Sequence sequence_;
  Sequence* outer_ = nullptr;
  int64_t began_ns_ = 0, host_ns_ = 0;
};

py::object object_of(const c10::IValue& v) {
  if (v.isTensor()) return py::cast(v.toTensor());
  if (v.isInt()) return py::int_(v.toInt());
  if (v.isBool()) return py::bool_(v.toBool());
  if (v.isDouble()) return py::float_(v.toDouble());
  if (v.isString()) return py::str(v.toStringRef());
  return py::none();
}

std::vector<c10::IValue> values_of(const py::sequence& items) {
  std::vector<c10::IValue> v;
  v.reserve(items.size());
  for (auto item : items) v.push_back(value_of(item));
  return v;
}

}  // namespace

void bind_piece(py::module_& m) {
  py::class_<Recorder>(m, "Recorder")
      .def(py::init<>())
      .def("begin", &Recorder::begin)
      .def("end", &Recorder::end)
      .def_property_readonly("count", &Recorder::count)
      .def_property_readonly("repeatable", &Recorder::repeatable)
      .def("launches", &Recorder::launches);
  m.def("recording", &Timeline::recording);
  m.def("host_own_ns", &HostClock::own_ns);
  m.def("refund_host_ns", &HostClock::refund_ns, py::arg("ns"));
  m.def("counts_cpu_time", &HostClock::counts_cpu_time);
  py::class_<Note>(m, "Note")
      .def(py::init<bool>(), py::arg("values") = false)
      .def("__enter__", [](Note& note) -> Note& { note.begin(); return note; }, py::return_value_policy::reference_internal)
      .def("__exit__", [](Note& note, const py::args&) { note.end(); })
      .def_property_readonly("repeatable", &Note::repeatable)
      .def_property_readonly("host_ns", &Note::host_ns)
      .def_property_readonly("replays", &Note::replays, "How many of the launches are those of captured graphs.")
      .def("repeat", &Note::repeat, py::arg("host_ns"), py::call_guard<py::gil_scoped_release>());
  py::class_<Piece>(m, "Piece")
      .def(py::init<>())
      .def("call", [](Piece& p, const py::args& args) -> py::object {
        std::vector<c10::IValue> results;
        switch (p.call(values_of(args), &results)) {
          case Piece::Answer::kUnknown: return py::bool_(false);
          case Piece::Answer::kDirect: return py::none();
          case Piece::Answer::kPlayed: break;
        }
        py::tuple out(results.size());
        for (size_t k = 0; k < results.size(); k++) out[k] = object_of(results[k]);
        return out;
      }, "A tuple of results; None: run the code; False: record it first.")
      .def("keep", [](Piece& p, const py::sequence& args, const py::sequence& results, const Recorder& recorder, const std::vector<size_t>& order,
                      size_t scratch_bytes) { p.keep(values_of(args), values_of(results), recorder.chosen(order), scratch_bytes); })
      .def_static("play", [](const Recorder& recorder, const std::vector<size_t>& order, int device) {
        Timeline::get().play(recorder.chosen(order), device);
      });
}

}  // namespace revati
