/* A stand-in for Coral's delegate: LiteRT loads it and hands it the custom operator.

It answers with the means of as many equal parts of the input as the output has values. The
environment variable FAKE_EDGETPU makes it misbehave: absent, mismatch, idle, hang, crash.
Structures as in tensorflow/lite/core/c/common.h, as far as they are used here. */
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { int size; int data[]; } Ints;
typedef struct {
  int type;
  int8_t *data;
  Ints *dims;
  float scale;
  int32_t zero_point;
  int allocation_type;
  size_t bytes;
  void *rest[8];
} Tensor;
typedef struct { Ints *inputs, *outputs; } Node;
typedef struct Context Context;
typedef struct {
  void *(*init)(Context *, const char *, size_t);
  void (*free)(Context *, void *);
  int (*prepare)(Context *, Node *);
  int (*invoke)(Context *, Node *);
  const char *(*profiling_string)(const Context *, const Node *);
  int32_t builtin_code;
  const char *custom_name;
  int version;
  void *external, *async_kernel;
  uint64_t inplace_operator;
} Registration;
typedef struct Delegate Delegate;
struct Context {
  size_t tensors_size;
  int (*execution_plan)(Context *, Ints **);
  Tensor *tensors;
  void *impl, *resize_tensor, *report_error, *add_tensors;
  int (*node_and_registration)(Context *, int, Node **, Registration **);
  int (*replace_nodes)(Context *, Registration, const Ints *, Delegate *);
};
struct Delegate {
  void *data;
  int (*prepare)(Context *, Delegate *);
  void *copy_from, *copy_to, *free_buffer;
  int64_t flags;
  void *builder;
};

static int asked(const char *what) {
  const char *how = getenv("FAKE_EDGETPU");
  return how && !strcmp(how, what);
}

static void *init(Context *context, const char *buffer, size_t length) { return NULL; }
static void end(Context *context, void *data) {}
static int prepare(Context *context, Node *node) { return asked("mismatch"); }

static int invoke(Context *context, Node *node) {
  if (asked("hang")) sleep(600);
  if (asked("crash")) raise(SIGSEGV);
  Tensor *in = &context->tensors[node->inputs->data[0]];
  Tensor *out = &context->tensors[node->outputs->data[0]];
  size_t each = in->bytes / out->bytes;
  for (size_t part = 0; part < out->bytes; part++) {
    long sum = 0;
    for (size_t at = 0; at < each; at++) sum += in->data[part * each + at];
    out->data[part] = (int8_t)(sum / (long)each);
  }
  return 0;
}

static int take(Context *context, Delegate *delegate) {
  if (asked("idle")) return 0;
  Registration own = {init, end, prepare, invoke};
  Ints *plan;
  own.custom_name = "EdgeTpuDelegateForCustomOp";
  own.version = 1;
  if (context->execution_plan(context, &plan)) return 1;
  return context->replace_nodes(context, own, plan, delegate);
}

Delegate *tflite_plugin_create_delegate(char **keys, char **values, size_t options,
                                        void (*report)(const char *)) {
  if (asked("absent")) {
    report("no device of type Apex");
    return NULL;
  }
  Delegate *made = calloc(1, sizeof(Delegate));
  made->prepare = take;
  made->flags = 1; /* dynamic tensors: LiteRT then asks before it prepares the operators */
  return made;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }
