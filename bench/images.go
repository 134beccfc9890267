// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"

	"github.com/libwasmshim/libwasmshim/test/guests"
)

// bothKinds makes two images of a guest, as the only layer and as a file, which
// have no code in common.
func (b *bench) bothKinds(guest string) (layered, plain client.Image, err error) {
	layer, err := guests.Named(guest, "layers-"+guest)
	if err != nil {
		return nil, nil, err
	}
	file, err := guests.Named(guest, "plain-"+guest)
	if err != nil {
		return nil, nil, err
	}
	if layered, err = b.LayerImage(b.ctx, "layers-"+guest, layer); err != nil {
		return nil, nil, err
	}
	plain, err = b.FileImage(b.ctx, "plain-"+guest, file)
	return layered, plain, err
}

// notAhead is the runtime's options without compiling ahead.
func notAhead() any { return &runtimeoptions.Options{ConfigBody: []byte("compile_timeout = '0s'")} }

// guestImages are the subjects that differ in guest and in kind of image.
func (b *bench) guestImages(args []string) ([]subject, error) {
	var all []subject
	for _, g := range []struct{ name, guest string }{{"Go, 3 MB", "go.wasm"}, {"hello", "hello.wasm"}} {
		if len(args) > 0 && g.guest != "go.wasm" {
			continue
		}
		layered, plain, err := b.bothKinds(g.guest)
		if err != nil {
			return nil, err
		}
		for _, s := range []subject{
			{name: g.name + ", wasm image", image: layered},
			{name: g.name + ", plain image", image: plain},
			{name: g.name + ", plain image, nothing ahead", image: plain, options: notAhead()},
		} {
			s.runtime, s.args = ours, args
			all = append(all, s)
		}
	}
	return all, nil
}

// images compares guests of two sizes in two kinds of images: when all is
// compiled, and when nothing is.
func (b *bench) images() error {
	subjects, err := b.guestImages(nil)
	if err != nil {
		return err
	}
	if err := b.compare("warm", subjects); err != nil {
		return err
	}
	rows := []string{"cold\tcreate\ttotal"}
	for _, s := range subjects {
		if s.options != nil {
			continue
		}
		var lives []life
		for range 5 {
			if err := b.forget(); err != nil {
				return err
			}
			l, err := b.live(s, func(string) {})
			if err != nil {
				return err
			}
			lives = append(lives, l)
		}
		create := func(l life) time.Duration { return l.create }
		rows = append(rows, fmt.Sprintf("%s\t%.1f\t%.1f", s.name, ms(quantile(lives, 0.5, create)), ms(quantile(lives, 0.5, life.total))))
	}
	table("The first start of an image, compilation included, in ms, median of 5", rows...)
	return nil
}

// forget removes all that was compiled, and all memory of it.
func (b *bench) forget() error {
	store := b.Client.ContentStore()
	err := store.Walk(b.ctx, func(info content.Info) error {
		var paths []string
		for key := range info.Labels {
			if strings.HasPrefix(key, "containerd.io/gc.ref.content.libwasmshim") {
				paths = append(paths, "labels."+key)
			}
		}
		if len(paths) == 0 {
			return nil
		}
		_, err := store.Update(b.ctx, content.Info{Digest: info.Digest}, paths...)
		return err
	})
	if err != nil {
		return err
	}
	if err := b.Collect(b.ctx); err != nil {
		return err
	}
	return b.Forget()
}

// together starts a fresh image many times at once.
func (b *bench) together() error {
	const n = 32
	rows := []string{fmt.Sprintf("%d at once\tseconds\tcompilations", n)}
	subjects, err := b.guestImages(nil)
	if err != nil {
		return err
	}
	for _, s := range subjects {
		if s.options == nil {
			if err := b.forget(); err != nil {
				return err
			}
		}
		before := b.compilations()
		begun := time.Now()
		errs := make([]error, n)
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() { _, errs[i] = b.live(s, func(string) {}) })
		}
		all.Wait()
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
		rows = append(rows, fmt.Sprintf("%s\t%.2f\t%d", s.name, time.Since(begun).Seconds(), b.compilations()-before))
	}
	table("Simultaneous starts of an image that was never started; \"nothing ahead\" compiles in every container", rows...)
	return nil
}

// compilations counts them, by containerd's log.
func (b *bench) compilations() int {
	n := 0
	for line := range strings.Lines(b.LogTail(1 << 20)) {
		if strings.Contains(line, `msg="compiled sha256:`) && strings.Contains(line, " took=") {
			n++
		}
	}
	return n
}

// pods measures the memory of pods of sleeping Go guests.
func (b *bench) pods() error {
	subjects, err := b.guestImages([]string{"/app.wasm", "echo=ready", "sleep=1h"})
	if err != nil {
		return err
	}
	rows := []string{"sleeping\tin a pod\tshim PSS\tdirty\tcontainer PSS\tdirty\tpod PSS"}
	for _, s := range subjects {
		for _, each := range []int{1, 10} {
			shims, containers, err := b.sleepers(s, 1, each)
			if err != nil {
				return err
			}
			rows = append(rows, fmt.Sprintf("%s\t%d\t%.1f\t%.1f\t%.2f\t%.2f\t%.1f", s.name, each, mb(shims.pss, 1), mb(shims.dirty, 1),
				mb(containers.pss, each), mb(containers.dirty, each), mb(shims.pss+containers.pss, 1)))
		}
	}
	table("Memory of Go guests in MB", rows...)
	return nil
}

// client measures what an idle daemon keeps of having asked containerd: a guest
// of layers asks, a file does not.
func (b *bench) client() error {
	layered, plain, err := b.bothKinds("sleep.wasm")
	if err != nil {
		return err
	}
	rows := []string{"idle daemon, 20 pods\tPSS\tdirty"}
	for range 2 { // the first start of each compiles, which is not what is measured
		rows = rows[:1]
		for _, s := range []subject{{name: "content client used", runtime: ours, image: layered}, {name: "not used", runtime: ours, image: plain}} {
			s.args = []string{"/app.wasm"}
			shims, _, err := b.sleepers(s, 20, 1)
			if err != nil {
				return err
			}
			rows = append(rows, fmt.Sprintf("%s\t%.2f\t%.2f", s.name, mb(shims.pss, 20), mb(shims.dirty, 20)))
		}
	}
	table("Memory of a daemon in MB", rows...)
	return nil
}
