// SPDX-License-Identifier: Apache-2.0

// Logger is a log driver on containerd's logging package. It writes what it
// gets to a file: logger -to FILE [-die true].
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/containerd/containerd/v2/core/runtime/v2/logging"
)

func main() {
	logging.Run(func(_ context.Context, c *logging.Config, ready func() error) error {
		file, die := "", false
		for i := 1; i+1 < len(os.Args); i += 2 {
			if os.Args[i] == "-to" {
				file = os.Args[i+1]
			} else {
				die = true
			}
		}
		out, err := os.Create(file)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s %s began\n", c.Namespace, c.ID)
		if err := ready(); err != nil {
			return err
		}
		if die {
			bufio.NewScanner(c.Stdout).Scan()
			fmt.Fprintln(out, "dies")
			os.Exit(1)
		}
		var both sync.WaitGroup
		for name, from := range map[string]io.Reader{"stdout": c.Stdout, "stderr": c.Stderr} {
			both.Go(func() {
				for lines := bufio.NewScanner(from); lines.Scan(); {
					fmt.Fprintf(out, "%s: %s\n", name, lines.Text())
				}
			})
		}
		both.Wait()
		fmt.Fprintln(out, "ended")
		return nil
	})
}
