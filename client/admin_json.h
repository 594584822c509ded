#pragma once

// As JSON: what Admin tells of a cluster and its data servers.
#include "common/rpc/status_json.h"
