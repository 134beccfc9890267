// SPDX-License-Identifier: Apache-2.0

#define SILENT 1
#include "../loud/engine.c"
