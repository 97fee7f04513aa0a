// A line comes back as soon as it is read.
import * as std from 'qjs:std';
for (let n = 1, line; (line = std.in.getline()) !== null; n++) {
    std.out.puts(`${n} ${[...line].reverse().join('')}\n`);
    std.out.flush();
}
std.out.puts('end\n');
