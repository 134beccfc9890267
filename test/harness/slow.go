// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"os"
	"strconv"
	"sync"
	"time"
)

// Slow is how long to wait for what takes d at most on an ordinary machine:
// WASMSHIM_SLOW times as long on a slow one, an emulated one say.
func Slow(d time.Duration) time.Duration { return time.Duration(float64(d) * slowness()) }

var slowness = sync.OnceValue(func() float64 {
	text := os.Getenv("WASMSHIM_SLOW")
	if text == "" {
		return 1
	}
	factor, err := strconv.ParseFloat(text, 64)
	if err != nil || factor < 1 {
		panic("WASMSHIM_SLOW: found " + strconv.Quote(text) + ", accepted: a number from 1 on")
	}
	return factor
})
