function outer() { return inner({}); }
function inner(o) { return o.missing.property; }
print('before');
outer();
