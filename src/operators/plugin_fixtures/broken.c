// Plug-ins that are wrong in one way each (BROKEN, see CMakeLists.txt), in C.
#include "kt/plugin.h"

enum {
  NO_ENTRY,
  NULL_TABLE,
  BAD_MAGIC,
  OTHER_VERSION,
  SHORT_TABLE,
  BAD_NAME,
  NO_OPERATORS,
  NULL_ROW,
  SHORT_ROW,
  BAD_OPERATOR_NAME,
  BAD_KIND,
  NO_RUN,
  OTHER_DEVICE,
  TOO_MANY_KWARGS,
  TWIN_KWARGS,
  BAD_KWARG_TYPE,
  TAKEN_NAME,
  WHOLE  // but its operator refuses every module
};

static void* create(const kt_site* site, char* error, size_t error_size) {
  (void)site, (void)error, (void)error_size;
  return NULL;
}
static int32_t load(void* self, const kt_reader* reader, char* error, size_t error_size) {
  (void)self, (void)reader, (void)error, (void)error_size;
  return 1;
}
static void run(void* self, const kt_run* call) { (void)self, (void)call; }
static uint64_t weight_bytes(const void* self) {
  (void)self;
  return 0;
}
static void destroy(void* self) { (void)self; }

static const kt_kwarg_type kwargs[] = {
    {"one", BROKEN == BAD_KWARG_TYPE ? 9 : KT_KWARG_FLAG, 0},
    {BROKEN == TWIN_KWARGS ? "one" : "two", KT_KWARG_TEXT, 0},
};

static const kt_operator row = {
    .size = BROKEN == SHORT_ROW ? 8 : sizeof(kt_operator),
    .name = BROKEN == BAD_OPERATOR_NAME ? "two words"
            : BROKEN == TAKEN_NAME      ? "KLinearTorch"
                                        : "Broken",
    .kind = BROKEN == BAD_KIND ? 77 : KT_KIND_LINEAR,
    .n_kwargs = BROKEN == TOO_MANY_KWARGS ? 100000 : 2,
    .kwargs = kwargs,
    .devices = BROKEN == OTHER_DEVICE ? "tpu" : "cpu",
    .create = create,
    .load = load,
    .run = BROKEN == NO_RUN ? NULL : run,
    .weight_bytes = weight_bytes,
    .destroy = destroy,
};

static const kt_operator* const operators[] = {BROKEN == NULL_ROW ? NULL : &row};

static const kt_plugin table = {
    .magic = BROKEN == BAD_MAGIC ? 0 : KT_PLUGIN_MAGIC,
    .version = BROKEN == OTHER_VERSION ? 99 : KT_PLUGIN_VERSION,
    .size = BROKEN == SHORT_TABLE ? 8 : sizeof(kt_plugin),
    .name = BROKEN == BAD_NAME ? "../evil" : "broken",
    .n_operators = BROKEN == NO_OPERATORS ? 0 : 1,
    .operators = operators,
};

KT_PLUGIN_EXPORT const kt_plugin*
#if BROKEN == 0
some_other_function
#else
kt_plugin_entry
#endif
    (uint32_t host_version) {
  (void)host_version;
  return BROKEN == NULL_TABLE ? NULL : &table;
}
