// SPDX-License-Identifier: Apache-2.0

package compiler

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What a compiler has had of ten seconds, second by second of the clock.
func TestAccount(t *testing.T) {
	const s = time.Second
	for name, test := range map[string]struct {
		cpu   func(second int) time.Duration // on all processors
		after int                            // seconds of the clock
		why   string
	}{
		"loops":              {func(int) time.Duration { return s }, 10, "the compiler took longer than 10s: " + ErrTooLong.Error()},
		"loops on four":      {func(int) time.Duration { return 4 * s }, 10, "the compiler took longer than 10s: " + ErrTooLong.Error()},
		"loops on a half":    {func(int) time.Duration { return s / 2 }, 20, "the compiler took longer than 10s: " + ErrTooLong.Error()},
		"waits for ever":     {func(int) time.Duration { return 0 }, 10, "the compiler has done nothing for 10s"},
		"works and waits":    {func(i int) time.Duration { return time.Duration(max(0, 5-i)) * s / 5 }, 15, "the compiler has done nothing for 10s"},
		"now and then":       {func(i int) time.Duration { return time.Duration(i/9%2) * s / 10 }, 100, "the compiler had 4.6s on a processor in 1m40s: " + ErrStarved.Error()},
		"a twentieth of one": {func(int) time.Duration { return s / 20 }, 100, "the compiler had 5s on a processor in 1m40s: " + ErrStarved.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			a, seconds := account{limit: 10 * s}, 0
			var err error
			for ; err == nil; seconds++ {
				require.Less(t, seconds, 1000)
				err = a.add(s, test.cpu(seconds))
			}
			require.EqualError(t, err, test.why)
			require.Equal(t, test.after, seconds)
		})
	}
}
