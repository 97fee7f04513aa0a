import { nothing } from './not-there';
const x: number = ;
