// A plan for other programs: `kt plan --json` and ktransformers.plan() print and read the same
// text, and write the same rule files. Thread rule: pure.
#pragma once
#include <string>

#include "session/plan_model.h"

namespace kt::session {

/// Devices, speeds, hints and every module as a JSON object of several lines; bytes are bytes,
/// rates tokens per second.
std::string plan_json(const PlannedModel& planned);

/// The plan as a rule file.
std::string plan_rules(const PlannedModel& planned);

}  // namespace kt::session
