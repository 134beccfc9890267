// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/sandbox"
	"github.com/libwasmshim/libwasmshim/shim/internal/steps"
	"github.com/libwasmshim/libwasmshim/shim/internal/task"
)

// flushTimeout bounds how long a daemon that is told to stop keeps trying to
// deliver its last events.
const flushTimeout = 5 * time.Second

// firstCallTimeout is how long a daemon waits to be asked for its first
// container. containerd asks at once, or has died.
const firstCallTimeout = 2 * time.Minute

// serve is the daemon: it answers the Task service in its place until containerd shuts
// it down. config is the text of the first container's config.json, none for a sandbox.
func serve(e Engine, c invocation, req request, p place, config []byte, took *steps.Steps) int {
	// The bundle goes with its container, the daemon may outlive it: a deleted
	// working directory would fail every later create.
	if err := os.Chdir("/"); err != nil {
		return 1
	}
	container.HurryMoves()
	pace := collectEarly
	if p.slot == nil {
		collectLate()
	} else {
		pace = collectMany
		pace()
	}
	logs := logs{}
	if !e.NoLogger {
		logs.add(c.id, c.bundle)
		level := e.LogLevel
		if req.debug {
			level = "debug"
		}
		if req.options.LogLevel != "" {
			level = req.options.LogLevel
		}
		setupLog(&logs, level)
	}
	logger := log.L.WithFields(log.Fields{"namespace": c.namespace, "runtime": e.Runtime()})
	took.Log(logger.WithField("instance", c.id), "start")
	ctx, cancel := context.WithCancel(log.WithLogger(context.Background(), logger))
	defer cancel()
	defer p.Close()

	stop := make(chan struct{})
	trim := newTrimmer(pace)
	publisher := task.NewPublisher(req.ttrpc, c.namespace)
	service := task.New(ctx, task.Config{
		Engine: e.Code, Options: e.Options, Binary: e.Binary(), Address: cmp.Or(c.address, os.Getenv("GRPC_ADDRESS")), Namespace: c.namespace,
		Publish: publisher.Publish, Busy: trim.busy,
		// Before containerd has its answer, and may ask for a successor.
		Unlist:   p.unlist,
		Shutdown: func() { close(stop) },
	})
	if p.slot != nil {
		service.ServeMany(daemonPods(req.options))
		service.Admit(c.id, func() {}, func() { left(c.id, p.link, &logs) })
		go p.giveOut(service, &logs)
	}
	service.Prepare(c.id, c.bundle, config)
	time.AfterFunc(firstCallTimeout, service.StopIfUnused)
	srv, err := task.NewServer()
	if err != nil {
		logger.WithError(err).Error("create ttrpc server")
		return 1
	}
	service.Register(srv)
	sandbox.New(service, req.options).Register(srv)
	// containerd's log reader may be gone when something is logged: SIGPIPE
	// must not kill the daemon. Notify and not Ignore, because an ignored
	// signal stays ignored in every process that is started.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGPIPE, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1)
	failed := make(chan error, 1)
	go func() { failed <- task.Serve(ctx, srv, p.daemon) }()

	for {
		select {
		case s := <-signals:
			switch s {
			case syscall.SIGUSR1:
				dumpStacks(logger)
			case syscall.SIGTERM, syscall.SIGINT:
				// The containers live on; containerd's delete cleans up.
				logger.WithField("signal", s).Warn("shim daemon stops on a signal")
				publisher.Close(flushTimeout)
				return 0
			}
		case err := <-failed:
			if !errors.Is(err, net.ErrClosed) && !errors.Is(err, ttrpc.ErrServerClosed) {
				logger.WithError(err).Error("serve the Task service")
			}
			publisher.Close(flushTimeout)
			return 1
		case <-stop:
			sctx, done := context.WithTimeout(ctx, time.Second)
			_ = srv.Shutdown(sctx)
			done()
			publisher.Close(flushTimeout)
			return 0
		}
	}
}

func dumpStacks(logger *log.Entry) {
	buf := make([]byte, 64<<10)
	n := runtime.Stack(buf, true)
	for n == len(buf) {
		buf = make([]byte, 2*len(buf))
		n = runtime.Stack(buf, true)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	logger.Infof("heap: %d kB live, %d kB in use, %d kB idle, %d kB of it released; stacks %d kB, runtime %d kB; %d collections; %d goroutines",
		m.HeapAlloc>>10, m.HeapInuse>>10, m.HeapIdle>>10, m.HeapReleased>>10, m.StackInuse>>10,
		(m.GCSys+m.OtherSys+m.MSpanSys+m.MCacheSys+m.BuckHashSys)>>10, m.NumGC, runtime.NumGoroutine())
	logger.Infof("goroutine stacks:\n%s", buf[:n])
}

// setupLog sends the log to where containerd reads it.
func setupLog(to *logs, level string) {
	_ = log.SetFormat(log.TextFormat)
	_ = log.SetLevel(level)
	log.L.Logger.SetOutput(to)
}
