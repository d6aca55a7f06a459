// Gradients of the ops: a node of the graph whose backward pass calls the op `<name>_backward`.
//
// The schema of `<name>_backward` says, by the names of its arguments, what a node keeps: after `grad_<result>`, the
// gradient of the first result, arguments and results of the op as they are called there, and `needs`, which gradients
// are wanted, one of every tensor that the op takes before its first argument of another kind: what comes later is constant.
// It returns those, in this order, but may leave out the last ones, of what is added to the result: they are its gradient.
// Where that is not enough (gradients of gradients, forward mode),
// `<op>.differentiable` computes the same in operations that PyTorch differentiates. hnetfast/ops/_register.py does the
// same where this is not built.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/library.h>

#include <mutex>

namespace hnetfast {
namespace {

using at::Tensor;
using c10::IValue;
using c10::OperatorHandle;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;
using torch::jit::Stack;

enum class Source { kArgument, kConstant, kResult, kNeeds };

// Where an argument of the backward op, after the gradient, comes from.
struct Origin {
  Source source;
  size_t index;
};

// What is known of an op from the schemas alone.
struct Plan {
  OperatorHandle backward;
  std::string name;
  std::vector<Origin> origins;
  std::optional<size_t> save_hidden;  // the argument that asks for results that only the backward pass wants
};

OperatorHandle find_op(const std::string& name, const char* overload) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), overload);
}

bool holds_tensors(const c10::Argument& argument) {
  const c10::TypePtr& type = argument.type();
  return type->isSubtypeOf(*c10::OptionalType::ofTensor()) || type->isSubtypeOf(*c10::ListType::ofTensors());
}

Plan make_plan(const OperatorHandle& op) {
  const c10::FunctionSchema& schema = op.schema();
  Plan plan{
      find_op(schema.name() + "_backward", ""), schema.name() + "_backward", {}, schema.argumentIndexWithName("save_hidden")};
  const auto& results = schema.returns();
  const auto& wanted = plan.backward.schema().arguments();
  TORCH_CHECK(wanted[0].name() == "grad_" + results[0].name() && wanted.back().name() == "needs", plan.name,
              ": expected the gradient as first and needs as last argument");
  for (size_t i = 1; i < wanted.size(); ++i) {
    const c10::Argument& argument = wanted[i];
    const auto is_it = [&](const c10::Argument& result) { return result.name() == argument.name(); };
    const auto result = std::find_if(results.begin(), results.end(), is_it);
    if (argument.name() == "needs") {
      plan.origins.push_back({Source::kNeeds, 0});
    } else if (result != results.end()) {
      plan.origins.push_back({Source::kResult, static_cast<size_t>(result - results.begin())});
    } else {
      const auto index = schema.argumentIndexWithName(argument.name());
      TORCH_CHECK(index, plan.name, ": ", argument.name(), " is neither an argument nor a result of ", schema.name());
      const auto& declared = schema.arguments();
      const bool leading = std::all_of(declared.begin(), declared.begin() + *index + 1, holds_tensors);
      plan.origins.push_back({leading ? Source::kArgument : Source::kConstant, static_cast<size_t>(*index)});
    }
  }
  return plan;
}

// Appends the tensors of an argument; one that may be left out and is counts as an undefined one.
void append(const IValue& value, variable_list& to) {
  if (value.isTensorList()) {
    for (const Tensor& tensor : value.toTensorList()) to.push_back(tensor);
  } else {
    to.push_back(value.isTensor() ? value.toTensor() : Tensor());
  }
}

variable_list leading_tensors(const OperatorHandle& op, const Stack& stack) {
  variable_list tensors;
  const auto& declared = op.schema().arguments();
  const size_t begin = stack.size() - declared.size();
  for (size_t i = 0; i < declared.size() && holds_tensors(declared[i]); ++i) append(stack[begin + i], tensors);
  return tensors;
}

bool any_tangent(const variable_list& tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const Tensor& t) { return t.defined() && t._fw_grad(0).defined(); });
}

// An argument of the backward op, as a node keeps it.
struct Kept {
  IValue value;          // unless it holds tensors that are saved
  int64_t tensors = -1;  // how many of a list
  size_t first = 0;      // where they begin among those that are kept
  bool is_tensor = false;
  bool is_output = false;
};

struct OpNode : torch::autograd::Node {
  const Plan* plan;
  std::vector<Kept> kept;
  std::vector<SavedVariable> saved;

  std::string name() const override { return plan->name; }

  // A constant is kept as it is: hooks on saved tensors, which may round them, are not for it.
  void keep(const IValue& value, bool is_output, bool is_constant) {
    Kept entry;
    entry.first = saved.size();
    if (is_constant) {
      entry.value = value;
    } else if (value.isTensorList()) {
      const auto list = value.toTensorList();
      entry.tensors = static_cast<int64_t>(list.size());
      for (const Tensor& tensor : list) saved.emplace_back(tensor, false);
    } else if (value.isTensor()) {
      entry.is_tensor = true;
      entry.is_output = is_output;
      saved.emplace_back(value.toTensor(), is_output);
    } else {
      entry.value = value;
    }
    kept.push_back(std::move(entry));
  }

  IValue unpack(const Kept& entry) {
    if (entry.is_tensor) return saved[entry.first].unpack(shared_from_this());
    if (entry.tensors < 0) return entry.value;
    c10::List<Tensor> list;
    list.reserve(entry.tensors);
    for (int64_t i = 0; i < entry.tensors; ++i) list.push_back(saved[entry.first + i].unpack());
    return list;
  }

  // The arguments of the backward op but for the gradient, and its name.
  std::vector<IValue> arguments() {
    c10::List<bool> needs;
    for (size_t i = 0; i < num_outputs(); ++i) needs.push_back(task_should_compute_output(i));
    std::vector<IValue> result;
    result.reserve(plan->origins.size());
    size_t next = 0;
    for (const Origin& origin : plan->origins) {
      if (origin.source == Source::kNeeds) result.emplace_back(needs);
      if (origin.source != Source::kNeeds) result.push_back(unpack(kept[next++]));
    }
    result.emplace_back(plan->name);
    return result;
  }

  variable_list apply(variable_list&& grads) override {
    std::lock_guard<std::mutex> lock(mutex_);
    return call(plan->backward, grads[0], arguments());
  }

  static variable_list call(const OperatorHandle& backward, const Tensor& grad, std::vector<IValue> arguments) {
    arguments.pop_back();
    c10::List<bool> needs = arguments.back().toBoolList();
    if (!grad.defined()) return variable_list(needs.size());
    Stack stack = std::move(arguments);
    stack.insert(stack.begin(), grad);
    backward.callBoxed(stack);
    const auto found = stack[0].toTensorList();
    variable_list results(needs.size());
    for (size_t i = 0; i < results.size(); ++i) {
      if (needs[i]) results[i] = i < found.size() ? found.get(i) : grad;
    }
    return results;
  }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable& variable : saved) variable.reset_data();
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    args.collect(plan->name);
    for (const Kept& entry : kept) {
      const size_t count = entry.is_tensor ? 1 : std::max<int64_t>(entry.tensors, 0);
      if (entry.value.isInt()) {
        args.collect(entry.value.toInt());  // a constant of the graph, as all others are
      } else {
        args.collect(entry.value);
      }
      args.collect(entry.tensors);
      for (size_t i = 0; i < count; ++i) args.collect(saved[entry.first + i], entry.is_output);
    }
  }

  // For compiled autograd, which traces a function of tensors and constants.
  variable_list apply_with_saved(const variable_list& grads, torch::dynamo::autograd::SwapSavedVariables& swap) override {
    for (SavedVariable& variable : saved) swap.before(variable);
    for (Kept& entry : kept) {
      if (entry.value.isTensor()) swap.before(entry.value);
    }
    const std::vector<IValue> args = arguments();
    std::vector<c10::TypePtr> types;
    for (const IValue& value : args) types.push_back(value.isTensor() ? c10::TensorType::get() : value.type());
    const auto traced = [](const variable_list& grads, const std::vector<IValue>& args) {
      return call(find_op(args.back().toStringRef(), ""), grads[0], args);
    };
    const auto& compiler = torch::dynamo::autograd::getPyCompilerInterface();
    const std::string function = compiler->bind_function(swap.get_py_compiler(), plan->name, traced, types, true, true);
    using Metadata = std::vector<std::optional<torch::autograd::InputMetadata>>;
    const IValue of_results =
        torch::dynamo::autograd::IValuePacker<Metadata>::pack(torch::dynamo::autograd::get_input_metadata(next_edges()));
    const variable_list results =
        compiler->call_function(swap.get_py_compiler(), "apply_functional", function, grads, args, of_results);
    for (SavedVariable& variable : saved) swap.after(variable);
    for (Kept& entry : kept) {
      if (entry.value.isTensor()) swap.after(entry.value);
    }
    return results;
  }
};

// Goes on to the kernel that computes.
void below_autograd(const OperatorHandle& op, c10::DispatchKeySet keys, Stack* stack) {
  at::AutoDispatchBelowADInplaceOrView guard;
  op.redispatchBoxed(keys & c10::after_autograd_keyset, stack);
}

// The kernel of an op that has a `<name>_backward`, where autograd is concerned.
class Gradients final : public c10::OperatorKernel {
 public:
  void operator()(const OperatorHandle& op, c10::DispatchKeySet keys, Stack* stack) {
    const size_t begin = stack->size() - op.schema().arguments().size();
    const variable_list tensors = leading_tensors(op, *stack);
    if (any_tangent(tensors)) return find_op(op.schema().name(), "differentiable").callBoxed(stack);
    if (!torch::autograd::compute_requires_grad(tensors)) return below_autograd(op, keys, stack);
    std::call_once(planned_, [&] { plan_ = make_plan(op); });
    const auto node = std::shared_ptr<OpNode>(new OpNode(), torch::autograd::deleteNode);
    node->plan = &*plan_;
    node->set_next_edges(torch::autograd::collect_next_edges(tensors));
    if (plan_->save_hidden) (*stack)[begin + *plan_->save_hidden] = true;
    const std::vector<IValue> arguments(stack->begin() + static_cast<int64_t>(begin), stack->end());
    below_autograd(op, keys, stack);
    Tensor out = (*stack)[begin].toTensor();
    torch::autograd::set_history(out, node);
    (*stack)[begin] = out;
    for (const Origin& origin : plan_->origins) {
      if (origin.source == Source::kNeeds) continue;
      const bool is_result = origin.source == Source::kResult;
      const IValue& value = is_result ? (*stack)[begin + origin.index] : arguments[origin.index];
      node->keep(value, is_result && origin.index == 0, origin.source == Source::kConstant);
    }
  }

 private:
  std::once_flag planned_;
  std::optional<Plan> plan_;
};

// The same of a backward op, whose gradients PyTorch finds from `<name>.differentiable`.
class GradientsOfGradients final : public c10::OperatorKernel {
 public:
  void operator()(const OperatorHandle& op, c10::DispatchKeySet keys, Stack* stack) {
    const variable_list tensors = leading_tensors(op, *stack);
    if (torch::autograd::compute_requires_grad(tensors) || any_tangent(tensors)) {
      return find_op(op.schema().name(), "differentiable").callBoxed(stack);
    }
    below_autograd(op, keys, stack);
  }
};

void attach_gradients(std::string_view name, bool has_backward) {
  // Never destroyed: at exit the dispatcher may be gone before it.
  static auto& library = *new torch::Library(torch::Library::IMPL, "hnetfast", c10::DispatchKey::Autograd, __FILE__, __LINE__);
  const std::string op(name);
  if (has_backward) {
    library.impl(op.c_str(), torch::CppFunction::makeFromBoxedFunctor(std::make_unique<Gradients>()));
  } else {
    library.impl(op.c_str(), torch::CppFunction::makeFromBoxedFunctor(std::make_unique<GradientsOfGradients>()));
  }
}

TORCH_LIBRARY_FRAGMENT(hnetfast, m) { m.def("_attach_gradients(str name, bool has_backward) -> ()", &attach_gradients); }

}  // namespace
}  // namespace hnetfast
