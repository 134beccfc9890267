// SPDX-License-Identifier: Apache-2.0

// Listener serves at a socket that it was started with, as descriptor 3.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
)

func main() {
	l, err := net.FileListener(os.NewFile(3, "socket"))
	if err != nil {
		fmt.Println("listen:", err)
		os.Exit(1)
	}
	fmt.Println("listening")
	c, err := l.Accept()
	if err != nil {
		fmt.Println("accept:", err)
		os.Exit(1)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil {
		_, err = fmt.Fprint(c, line)
	}
	if err != nil {
		fmt.Println("answer:", err)
		os.Exit(1)
	}
	c.Close()
}
