// SPDX-License-Identifier: Apache-2.0

#ifndef WASMSHIM_SANDBOX_H
#define WASMSHIM_SANDBOX_H

#include <stddef.h>

#include "stage.h"

// Makes this process unable to open, change or rename any file below the
// context's hidden paths, for good. Layers can still be read by their names in
// /proc. Beside them and their parents everything that is
// there stays as it was; what is made later directly in a parent, "/" for one,
// can be neither made nor opened. Returns 0, or -1 with nothing changed, errno,
// which is ENOSYS or EOPNOTSUPP where the kernel has no Landlock, and a text on
// the cause in why. shim/internal/landlock goes by the same rules.
// Call it before there are threads: it is for the calling one.
int wasmshim_hide(const struct wasmshim_stage *stage, char *why, size_t size);

// The same for every path there is.
int wasmshim_hide_all(void);

#endif
