// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// A daemon may be killed at any point of a container's life: containerd's
// delete then leaves nothing behind, and says so every time it is run.
func TestDaemonKilledAtAnyPoint(t *testing.T) {
	rounds := rounds(15)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range rounds {
		// Spread over create, start, exit and delete, and a little beyond.
		after := time.Duration(random.IntN(80000)) * time.Microsecond
		guest := []string{"/hello.wasm", "/sleep.wasm", "/native"}[round%3]
		t.Run(fmt.Sprintf("%s after %s", guest, after), func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			h := tt.ByHand(harness.HandConfig{RootFS: rootfs(tt), Args: []string{guest}})
			shims := tt.Shims()
			require.Len(t, shims, 1)
			done := make(chan struct{})
			go func() {
				defer close(done)
				live(tt.Ctx, h)
			}()
			time.Sleep(after)
			// It may have ended by itself.
			if err := syscall.Kill(shims[0].Pid, syscall.SIGKILL); err != nil {
				require.ErrorIs(t, err, syscall.ESRCH)
			}
			<-done
			require.Eventually(t, func() bool { return len(tt.Shims()) == 0 }, 10*time.Second, time.Millisecond)
			for range 2 {
				_, err := h.DeleteCommand(tt.Ctx)
				require.NoError(t, err)
			}
		})
	}
}

// live takes a container through its life as far as its daemon lives.
func live(ctx context.Context, h *harness.ByHand) {
	if _, err := h.Create(ctx); err != nil {
		return
	}
	if _, err := h.Start(ctx, &task.StartRequest{ID: h.ID}); err != nil {
		return
	}
	for _, args := range []string{`["/sleep.wasm"]`, `["/native","sleep"]`} {
		id := harness.FreshID("e")
		spec := &anypb.Any{Value: []byte(`{"args":` + args + `,"cwd":"/"}`)}
		_, _ = h.Exec(ctx, &task.ExecProcessRequest{ID: h.ID, ExecID: id, Terminal: true, Spec: spec})
		_, _ = h.ResizePty(ctx, &task.ResizePtyRequest{ID: h.ID, ExecID: id, Width: 80, Height: 25})
		_, _ = h.Start(ctx, &task.StartRequest{ID: h.ID, ExecID: id})
	}
	_, _ = h.Kill(ctx, &task.KillRequest{ID: h.ID, Signal: uint32(syscall.SIGTERM)})
	if _, err := h.Wait(ctx, &task.WaitRequest{ID: h.ID}); err != nil {
		return
	}
	_, _ = h.Delete(ctx, &task.DeleteRequest{ID: h.ID})
	_, _ = h.Shutdown(ctx, &task.ShutdownRequest{ID: h.ID})
}
