// SPDX-License-Identifier: Apache-2.0

package compiler

import (
	"context"
	"fmt"
	"time"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
)

// clockFactor is how many times its time a compiler may take of the clock: where it gets
// less of a processor than that, the guest's own process is done sooner.
const clockFactor = 10

// Clock is how long a compiler may take by the clock.
func (l Limits) Clock() time.Duration { return clockFactor * l.Time }

// account is what a compiler has had of its time. What counts is time on a processor,
// several at once as one: on a machine that has much else to do, a compiler that waits for
// its turn is not one that loops. Nor is one that waits for anything else in its time:
// there is nothing that it could wait for as long.
type account struct {
	limit             time.Duration
	used, idle, clock time.Duration
}

// add counts what has passed on the clock, and on all processors together, and says what
// is over.
func (a *account) add(clock, cpu time.Duration) error {
	a.clock += clock
	a.used += min(clock, cpu)
	a.idle += clock
	if cpu > 0 {
		a.idle = 0
	}
	switch {
	case a.used >= a.limit:
		return fmt.Errorf("the compiler took longer than %s: %w", a.limit, ErrTooLong)
	case a.idle >= a.limit:
		return fmt.Errorf("the compiler has done nothing for %s", a.limit)
	case a.clock >= clockFactor*a.limit:
		return fmt.Errorf("the compiler had %s on a processor in %s: %w", a.used.Round(time.Millisecond), a.clock.Round(time.Millisecond), ErrStarved)
	}
	return nil
}

// watch waits for the compiler's end, or until its time is up. err is nil at its end alone.
func watch(ctx context.Context, c *container.Container, limits Limits) (_ container.Exit, overdue, err error) {
	a := account{limit: limits.Time}
	at, had := time.Now(), c.CPUTime()
	for {
		brief, cancel := context.WithTimeout(ctx, limits.Time/20)
		exit, err := c.Wait(brief)
		cancel()
		if err == nil || ctx.Err() != nil {
			return exit, nil, err
		}
		now, has := time.Now(), c.CPUTime()
		if overdue := a.add(now.Sub(at), max(0, has-had)); overdue != nil {
			return exit, overdue, err
		}
		at, had = now, has
	}
}
