import { h, render, type FunctionComponent } from 'preact';
import { useState } from 'preact/hooks';
import { marked } from 'marked';
import { customAlphabet } from 'nanoid/non-secure';
import style from './style.css';
import logo from './logo.svg';
import data from './data.json';

const enum Level { Low = 1 << 0, High = 1 << 4 }
namespace Geometry { export const area = (w: number, h: number) => w * h; }
abstract class Model<T extends object> { declare readonly brand: unique symbol; constructor(protected readonly value: T, private count = 0) {} touch() { return ++this.count ?? Level.High; } static #made = 0n; }
class Page extends Model<{ title: string }> { get title() { return this.value.title satisfies string; } }
const Unused: FunctionComponent = () => <p>never</p>;
const App: FunctionComponent<{ page: Page }> = ({ page, ...rest }) => {
    const [n, set] = useState<number>(Level.Low);
    return <main class={style} {...rest}><img src={logo} alt="" /><h1 onClick={() => set(n ** 2)}>{page.title}{n}</h1>
        <article dangerouslySetInnerHTML={{ __html: marked.parse(data.text) as string }} /><>{Geometry.area(3, data?.numbers?.[0]!)}</></main>;
};
render(<App page={new Page({ title: customAlphabet('abc', 4)() })} id="root" />, document.body);
import('./lazy').then(({ lazy }) => lazy(2n)).catch(() => { debugger; });
