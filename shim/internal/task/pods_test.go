// SPDX-License-Identifier: Apache-2.0

package task

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A place is for a pod as long as it has a container, and for one that does not come a
// while. A daemon of many pods ends once it has had none for a while.
func TestPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var gone []string // guarded by mu
		over := func() []string {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(gone)
		}
		ended := make(chan struct{})
		s := New(t.Context(), Config{Unlist: func() {}, Shutdown: func() { close(ended) }})
		s.ServeMany(2)
		admit := func(id string) bool {
			return s.Admit(id, func() {}, func() {
				mu.Lock()
				defer mu.Unlock()
				gone = append(gone, id)
			})
		}
		require.True(t, admit("pod"))
		require.False(t, admit("pod"), "it is here already")
		require.True(t, admit("other"))
		require.False(t, admit("third"), "it is full")

		task, _, err := s.reserve(t.Context(), "pod")
		require.NoError(t, err)
		mate, _, err := s.reserve(t.Context(), "mate")
		require.NoError(t, err)
		s.attend("mate", map[string]string{podAnnotation: "pod"})
		s.drop(task)
		require.Empty(t, over(), "its mate is there")

		time.Sleep(admitTimeout + time.Second)
		require.Equal(t, []string{"other"}, over(), "it did not come")
		s.drop(mate)
		require.Equal(t, []string{"other", "pod"}, over())

		s.stopIfEmpty(t.Context()) // as containerd asks
		time.Sleep(idleTime - time.Second)
		require.True(t, admit("next"))
		next, _, err := s.reserve(t.Context(), "next")
		require.NoError(t, err)
		time.Sleep(time.Hour)
		s.drop(next)
		require.True(t, slices.Contains(over(), "next"))
		time.Sleep(idleTime - time.Second)
		select {
		case <-ended:
			t.Error("it ended too early")
		default:
		}
		<-ended
		require.False(t, admit("late"), "it ends")
	})
}
